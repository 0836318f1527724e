package label

import (
	"fmt"
	"strings"
)

// ZPL draws a label for a printer of 203 dots an inch, 105 by 148 mm, in ZPL II
// with UTF-8 text.
func ZPL(labels ...Label) ([]byte, error) {
	var b strings.Builder
	for i := range labels {
		l := &labels[i]
		if err := l.check(); err != nil {
			return nil, fmt.Errorf("label: %w", err)
		}
		b.WriteString("^XA^CI28^PW839^LL1183\n")
		y := 30
		field(&b, 30, y, 40, l.Title)
		y += 60
		for _, block := range l.Blocks {
			field(&b, 30, y, 18, block.Heading)
			y += 22
			for _, line := range block.Lines {
				field(&b, 30, y, 28, line)
				y += 34
			}
			y += 10
		}
		for _, c := range l.Codes {
			if _, err := encode(c); err != nil {
				return nil, fmt.Errorf("label: code %q: %w", c.Data, err)
			}
			switch c.Symbology {
			case QR:
				// QM: error correction M, mode chosen by the printer.
				fmt.Fprintf(&b, "^FO300,%d^BQN,2,5^FH_^FDMA,%s^FS\n", y, escape(c.Data))
				y += 230
			case GS1128:
				data, err := elements(c.Data)
				if err != nil {
					return nil, fmt.Errorf("label: code %q: %w", c.Data, err)
				}
				// >;>8: subset C, and the FNC1 that makes it GS1-128.
				fmt.Fprintf(&b, "^FO60,%d^BY3^BCN,140,N,N,N^FH_^FD>;>8%s^FS\n", y, escape(data))
				y += 150
			default:
				fmt.Fprintf(&b, "^FO60,%d^BY3^BCN,140,N,N,N,A^FH_^FD%s^FS\n", y, escape(c.Data))
				y += 150
			}
			if c.Text != "" {
				field(&b, 60, y, 26, c.Text)
				y += 40
			}
		}
		if l.Foot != "" {
			field(&b, 30, 1150, 18, l.Foot)
		}
		if y > 1150 {
			return nil, fmt.Errorf("label: %d dots of text and codes: %w", y, ErrTooMuch)
		}
		b.WriteString("^XZ\n")
	}
	return []byte(b.String()), nil
}

func field(b *strings.Builder, x, y, size int, text string) {
	if text != "" {
		fmt.Fprintf(b, "^FO%d,%d^A0N,%d,%d^FH_^FD%s^FS\n", x, y, size, size, escape(text))
	}
}

// escape keeps a text from being read as commands: "^" and "~" begin those, "_"
// begins a code of ^FH.
func escape(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		switch {
		case c == '^' || c == '~' || c == '_' || c < ' ':
			fmt.Fprintf(&b, "_%02X", c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}
