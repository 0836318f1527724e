package main

import (
	"bytes"
	"context"
	"image"
	"image/color"
	"image/draw"
	"image/png"

	"github.com/boombuler/barcode/qr"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// quietZone is the white around a QR code, in modules (ISO/IEC 18004, 5.3.8).
const quietZone = 4

// GetPassportCode draws the QR code that stands on a unit; a merchant's own.
func (s *service) GetPassportCode(ctx context.Context, req *inspectionv1.GetPassportCodeRequest) (*inspectionv1.GetPassportCodeResponse, error) {
	merchant, err := owner(ctx)
	if err != nil {
		return nil, err
	}
	u, err := loadUnit(ctx, s.db, req.GetUnitId())
	if err != nil {
		return nil, store.Wrap(err)
	}
	if u == nil || merchant != "" && u.merchant != merchant {
		return nil, unknownUnit()
	}
	size := int(req.GetSize())
	if size == 0 {
		size = 256
	}
	picture, err := drawCode(u.digitalLink, size)
	return &inspectionv1.GetPassportCodeResponse{DigitalLink: u.digitalLink, Image: picture}, err
}

// drawCode draws a QR code with its quiet zone: every module is as many pixels
// as every other, what is left over is white.
func drawCode(text string, size int) ([]byte, error) {
	code, err := qr.Encode(text, qr.M, qr.Auto)
	if err != nil {
		return nil, err
	}
	modules := code.Bounds().Dx()
	scale := size / (modules + 2*quietZone)
	if scale == 0 {
		return nil, fault.Field("size", "is too small for this code; take 256")
	}
	palette := color.Palette{color.White, color.Black}
	picture := image.NewPaletted(image.Rect(0, 0, size, size), palette)
	margin := (size - scale*modules) / 2
	for y := range modules {
		for x := range modules {
			if r, _, _, _ := code.At(x, y).RGBA(); r == 0 {
				at := image.Rect(0, 0, scale, scale).Add(image.Pt(margin+x*scale, margin+y*scale))
				draw.Draw(picture, at, image.NewUniform(color.Black), image.Point{}, draw.Src)
			}
		}
	}
	var b bytes.Buffer
	err = png.Encode(&b, picture)
	return b.Bytes(), err
}
