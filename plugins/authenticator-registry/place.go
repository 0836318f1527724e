package main

import (
	_ "embed"
	"fmt"
	"math"
	"strings"
	"time"
)

//go:embed places.txt
var placesText string

// point is latitude and longitude in degrees.
type point struct{ lat, lon float64 }

// places are where countries are, by their code.
var places = func() map[string][]point {
	all := make(map[string][]point)
	for l := range strings.Lines(placesText) {
		f := strings.Fields(l)
		if len(f) < 2 || f[0] == "#" {
			continue
		}
		for _, s := range f[1:] {
			var p point
			if _, err := fmt.Sscanf(s, "%g,%g", &p.lat, &p.lon); err != nil {
				panic(fmt.Sprintf("places.txt: %q: %v", l, err)) // a test reads it
			}
			all[f[0]] = append(all[f[0]], p)
		}
	}
	return all
}()

const (
	earthRadius = 6371.0
	// slack is how far two places may be nearer to each other than the cities
	// of their countries that are known here: a thousand kilometres each.
	slack = 2000.0
	// speed is faster than anything carries goods, door to door, in km/h.
	speed = 1000.0
)

// distance between two countries in kilometres: of their nearest known cities,
// on the great circle. It is 0 for a country that is not known.
func distance(a, b string) float64 {
	nearest := math.Inf(1)
	for _, p := range places[a] {
		for _, q := range places[b] {
			nearest = min(nearest, greatCircle(p, q))
		}
	}
	if math.IsInf(nearest, 1) {
		return 0
	}
	return nearest
}

// greatCircle is the haversine formula.
func greatCircle(p, q point) float64 {
	const rad = math.Pi / 180
	half := func(d float64) float64 { return math.Pow(math.Sin(d*rad/2), 2) }
	h := half(q.lat-p.lat) + math.Cos(p.lat*rad)*math.Cos(q.lat*rad)*half(q.lon-p.lon)
	return 2 * earthRadius * math.Asin(math.Sqrt(min(1, h)))
}

// tooFast tells whether nothing gets from one country to the other in a time.
func tooFast(a, b string, took time.Duration) bool {
	return distance(a, b)-slack > speed*took.Abs().Hours()
}
