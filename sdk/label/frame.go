package label

import (
	"image"
	"image/color"
)

// framed is a picture with its quiet zone around it.
type framed struct {
	image.Image
	by int
}

// Bounds implement image.Image.
func (f framed) Bounds() image.Rectangle {
	b := f.Image.Bounds()
	return image.Rect(0, 0, b.Dx()+2*f.by, b.Dy()+2*f.by)
}

// ColorModel implements image.Image.
func (f framed) ColorModel() color.Model { return color.GrayModel }

// At implements image.Image.
func (f framed) At(x, y int) color.Color {
	b := f.Image.Bounds()
	if p := image.Pt(x-f.by+b.Min.X, y-f.by+b.Min.Y); p.In(b) {
		return color.GrayModel.Convert(f.Image.At(p.X, p.Y))
	}
	return color.White
}
