package trade

import (
	"slices"
	"strings"
	"unicode"
)

// kind is what a title's words say of an article: where it stands in the shop,
// its code of the Harmonized System 2022 and where such things are made.
type kind struct{ category, hs, origin, words string }

// kinds are tried in order: the first that one of the title's words names
// decides. They are guesses, made so that search, facets and customs have
// something to work with; nobody classified these articles.
var kinds = []kind{
	{"seasonal/christmas", "950510", "CN", "CHRISTMAS XMAS ADVENT SANTA REINDEER"},
	{"seasonal/easter", "950590", "CN", "EASTER EGG BUNNY CHICK"},
	{"home/candles", "340600", "CN", "T-LIGHT CANDLE CANDLES TEALIGHT"},
	{"home/fragrance", "330741", "IN", "INCENSE FRAGRANCE OIL SCENTED"},
	{"home/lighting", "940550", "IN", "LANTERN CANDLESTICK CANDLEHOLDER"},
	{"home/lighting", "940542", "CN", "LIGHT LAMP CHANDELIER NIGHTLIGHT TORCH"},
	{"home/clocks", "910521", "CN", "CLOCK"},
	{"home/frames", "441490", "IN", "FRAME PHOTO PHOTOFRAME"},
	{"home/mirrors", "700992", "CN", "MIRROR"},
	{"home/signs", "830629", "CN", "SIGN LETTER PLAQUE"},
	{"home/fittings", "830242", "IN", "HOOK HANGER KNOB DRAWER RACK DOORSTOP"},
	{"home/doormats", "570390", "IN", "DOORMAT RUG MAT"},
	{"textiles", "940490", "IN", "CUSHION QUILT PILLOW BEANBAG PAD"},
	{"textiles", "630790", "IN", "APRON TOWEL BUNTING COVER CLOTH FELT FABRIC"},
	{"kitchen/tableware", "691200", "CN", "MUG CUP PLATE BOWL SAUCER TEACUP TEAPOT JUG DISH EGGCUP COASTER"},
	{"kitchen/glass", "701349", "CN", "GLASS TUMBLER JAR"},
	{"kitchen/bottles", "701090", "CN", "BOTTLE"},
	{"kitchen/baking", "732393", "CN", "CAKE CAKESTAND CUPCAKE BAKING CUTTER PAN CUTLERY SPOON TRAY ENAMEL TEA COFFEE KITCHEN"},
	{"bags", "420292", "CN", "BAG LUGGAGE WASHBAG SHOPPER"},
	{"bags", "420222", "IN", "HANDBAG"},
	{"bags", "420231", "IN", "PURSE WALLET CARDHOLDER"},
	{"umbrellas", "660199", "CN", "UMBRELLA PARASOL"},
	{"stationery/cards", "490900", "GB", "CARD POSTCARD GREETING"},
	{"stationery/wrapping", "481190", "GB", "WRAP RIBBON TISSUE TAPE"},
	{"stationery/paper", "482010", "CN", "NOTEBOOK JOURNAL PAPER NOTEPAD BOOK"},
	{"stationery/pens", "960910", "CN", "PENCIL PEN CRAYON CHALK"},
	{"stationery/stickers", "482110", "CN", "STICKER LABEL TAG"},
	{"toys", "950300", "CN", "DOLL DOLLY TOY JIGSAW PUZZLE SPACEBOY SKITTLE"},
	{"toys/games", "950490", "CN", "GAME DOMINO CARDS"},
	{"jewellery", "711719", "IN", "NECKLACE BRACELET EARRING RING PENDANT BROOCH DIAMANTE CHARM CRYSTAL BLING"},
	{"jewellery/hair", "961590", "CN", "HAIR HAIRBAND"},
	{"garden", "820190", "CN", "GARDEN GARDENER PLANT TROWEL WATERING"},
	{"home/flowers", "670290", "CN", "FLOWER WREATH GARLAND BOUQUET"},
	{"storage", "442090", "IN", "BOX CABINET CHEST TRINKET"},
	{"storage", "732690", "CN", "TIN ZINC BUCKET METAL"},
	{"storage", "460219", "VN", "BASKET WICKER HAMPER"},
	{"home/ornaments", "691390", "CN", "DECORATION HEART BIRD BUTTERFLY RABBIT STAR ANGEL CERAMIC ORNAMENT"},
}

// rank is the place in kinds of every word.
var rank = func() map[string]int {
	out := make(map[string]int)
	for i, k := range kinds {
		for w := range strings.FieldsSeq(k.words) {
			out[w] = i
		}
	}
	return out
}()

// kindOf looks at whole words, in the singular: OPEN is no pen.
func kindOf(title string) kind {
	words := strings.FieldsFunc(strings.ToUpper(title), func(r rune) bool { return r != '-' && !unicode.IsLetter(r) })
	best := len(kinds)
	for _, w := range words {
		for _, form := range []string{w, strings.TrimSuffix(w, "S"), strings.TrimSuffix(w, "ES")} {
			if i, ok := rank[form]; ok {
				best = min(best, i)
			}
		}
	}
	if best == len(kinds) {
		return kind{category: "gifts", hs: "442090", origin: "CN"}
	}
	return kinds[best]
}

// Categories are all that an article may have, sorted.
func Categories() []string {
	out := []string{"gifts"}
	for _, k := range kinds {
		out = append(out, k.category)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
