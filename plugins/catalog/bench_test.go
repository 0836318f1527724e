package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
)

// full is a shop with 4,000 listings, as many as a real gift shop has.
func full(b *testing.B) (*shop, []string) {
	s := open(b)
	colours := []string{"red", "blue", "green", "white", "black", "pink", "silver", "ivory"}
	things := []string{"candle", "lamp", "teapot", "bunting", "clock", "cushion", "mug", "frame", "hook", "basket"}
	var skus []string
	for part := range 8 {
		var products []*catalogv1.Product
		for i := range 500 {
			n := part*500 + i
			p := article(strconv.Itoa(n), fmt.Sprintf("%s %s number %d", colours[n%len(colours)], things[n/7%len(things)], n))
			p.Brand, p.Category = fmt.Sprint("Brand ", n%20), "home/"+things[n/7%len(things)]
			p.Variants[0].Attributes = map[string]string{"colour": colours[n%len(colours)], "size": "M"}
			p.Variants[0].Gtin = "4006381333931"
			products = append(products, p)
		}
		var fresh []string
		var levels []*warehousev1.StockLevel
		for _, sku := range s.put(b, s.one, products...) {
			fresh, levels = append(fresh, sku), append(levels, level(sku, "main", 100, 1))
		}
		s.offer(b, "GB", "GBP", int64(100+part), fresh...)
		s.stock(b, levels...)
		skus = append(skus, fresh...)
	}
	_, err := s.Admin.Exec(b.Context(), "VACUUM ANALYZE")
	require.NoError(b, err)
	return s, skus
}

// cpu is the processor time that this process and the module's PostgreSQL
// connections have used.
func (s *shop) cpu(b *testing.B) (own, database time.Duration) {
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	own = time.Duration(u.Utime.Nano() + u.Stime.Nano())
	rows, err := s.Admin.Query(b.Context(), "SELECT pid FROM pg_stat_activity WHERE usename = 'p_catalog' AND datname = current_database()")
	require.NoError(b, err)
	defer rows.Close()
	for rows.Next() {
		var pid int
		require.NoError(b, rows.Scan(&pid))
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			b.Skip("processor time of PostgreSQL is read from /proc")
		}
		// proc(5): utime and stime are the 12th and 13th after the name, in
		// hundredths of a second.
		f := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		for _, t := range f[11:13] {
			n, err := strconv.ParseInt(string(t), 10, 64)
			require.NoError(b, err)
			database += time.Duration(n) * 10 * time.Millisecond
		}
	}
	return own, database
}

// measure runs calls and reports processor time beside wall time.
func (s *shop) measure(b *testing.B, fn func()) {
	own, database := s.cpu(b)
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		fn()
	}
	b.StopTimer()
	own2, database2 := s.cpu(b)
	b.ReportMetric(float64((own2-own).Microseconds())/float64(b.N), "cpu-us/op")
	b.ReportMetric(float64((database2-database).Microseconds())/float64(b.N), "pg-cpu-us/op")
}

func BenchmarkSearch(b *testing.B) {
	s, _ := full(b)
	front := s.front("GB")
	for name, req := range map[string]*catalogv1.SearchListingsRequest{
		"browse":   {},
		"price":    {Sort: catalogv1.SearchListingsRequest_SORT_PRICE_ASCENDING},
		"in stock": {InStockOnly: true},
		"category": {Category: "home/candle"},
		"words":    {Query: "red cand"},
		"facets":   {WithFacets: true},
	} {
		b.Run(name, func(b *testing.B) {
			s.measure(b, func() {
				res, err := front.SearchListings(b.Context(), req)
				if err != nil || len(res.GetListings()) != 40 {
					b.Fatal(len(res.GetListings()), err)
				}
			})
		})
	}
}

func BenchmarkQuote(b *testing.B) {
	s, skus := full(b)
	req := &catalogv1.QuotePricesRequest{Market: "GB", Skus: skus[:20]}
	s.measure(b, func() {
		if _, err := s.quotes.QuotePrices(b.Context(), req); err != nil {
			b.Fatal(err)
		}
	})
}
