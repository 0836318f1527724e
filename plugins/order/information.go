package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/proto/entrepot/order/v1/orderv1connect"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// finding is a filter as its statement takes it: who asks decides what is
// there to be found.
type finding struct {
	where string
	args  []any
	// show is an order as who asks may see it.
	show func(*order) *orderv1.Order
}

func find(ctx context.Context, f *orderv1.OrderFilter) (*finding, error) {
	p := call.From(ctx).Principal
	out := &finding{where: `o.state <> 6`}
	and := func(condition string, arg any) {
		out.args = append(out.args, arg)
		out.where += " AND " + strings.ReplaceAll(condition, "?", "$"+strconv.Itoa(len(out.args)))
	}
	const part = `EXISTS (SELECT FROM consignment p WHERE p.order_id = o.id AND p.merchant = ?)`
	// What a merchant may see is also what it may ask about.
	mine := ""
	switch p.Kind {
	case call.Merchant:
		out.show = func(o *order) *orderv1.Order { return o.part(p.Merchant).proto() }
		out.where += ` AND o.state <> 1`
		and(part, p.Merchant)
		mine = " AND l.merchant = $1"
	case call.Staff, call.Operator:
		out.show = (*order).proto
		if f.GetMerchantId() != "" {
			and(part, f.GetMerchantId())
		}
	default:
		out.show = func(o *order) *orderv1.Order { return toConsumer(o.proto()) }
		and(`o.account = ? AND o.account <> ''`, p.Account)
	}
	if f.GetMerchantId() != "" && p.Kind != call.Staff && p.Kind != call.Operator {
		return nil, fault.Field("filter.merchant_id", "for staff")
	}
	if len(f.GetStates()) > 0 {
		states := make([]int16, len(f.GetStates()))
		for i, s := range f.GetStates() {
			states[i] = int16(s)
		}
		and(`o.state = ANY (?)`, states)
	}
	if f.GetMarket() != "" {
		and(`o.market = ?`, f.GetMarket())
	}
	if f.GetSku() != "" {
		and(`EXISTS (SELECT FROM order_line l WHERE l.order_id = o.id AND l.sku = ?`+mine+`)`, f.GetSku())
	}
	if f.GetTitle() != "" {
		and(`EXISTS (SELECT FROM order_line l WHERE l.order_id = o.id AND strpos(lower(l.title), lower(?)) > 0`+mine+`)`, f.GetTitle())
	}
	for _, t := range []struct {
		condition string
		at        *timestamppb.Timestamp
	}{{`o.placed_at >= ?`, f.GetPlacedFrom()}, {`o.placed_at < ?`, f.GetPlacedTo()}} {
		if t.at != nil {
			if !t.at.IsValid() {
				return nil, fault.Field("filter", "a time is out of range")
			}
			and(t.condition, t.at.AsTime())
		}
	}
	if f.GetOrderId() != "" {
		and(`o.id = ?`, f.GetOrderId())
	}
	if f.GetEdited() {
		out.where += ` AND o.edits > 0`
	}
	return out, nil
}

// page reads the next orders after one, newest first: ids rise with time.
func (s *service) page(ctx context.Context, f *finding, after string, n int) ([]*order, error) {
	args := append(append([]any{}, f.args...), after, n)
	return s.readOrders(ctx, fmt.Sprintf(`SELECT `+orderColumns+` FROM orders o WHERE %s AND ($%d = '' OR o.id < $%d) ORDER BY o.id DESC LIMIT $%d`,
		f.where, len(args)-1, len(args)-1, len(args)), args...)
}

// SearchOrders pages through orders.
func (s *service) SearchOrders(ctx context.Context, req *orderv1.SearchOrdersRequest) (*orderv1.SearchOrdersResponse, error) {
	after, err := pageToken(req.GetPageToken())
	if err != nil {
		return nil, err
	}
	f, err := find(ctx, req.GetFilter())
	if err != nil {
		return nil, err
	}
	size := pageSize(req.GetPageSize(), 50)
	found, err := s.page(ctx, f, after, size+1)
	if err != nil {
		return nil, err
	}
	res := &orderv1.SearchOrdersResponse{}
	if len(found) > size {
		found, res.NextPageToken = found[:size], nextToken(found[size-1].id)
	}
	for _, o := range found {
		res.Orders = append(res.Orders, f.show(o))
	}
	return res, nil
}

// exportBatch is how many orders are read and sent at once.
const exportBatch = 200

// ExportOrders streams orders as a file.
func (s *service) ExportOrders(ctx context.Context, req *orderv1.ExportOrdersRequest, stream orderv1connect.OrderInformationServiceExportOrdersServerStream) error {
	f, err := find(ctx, req.GetFilter())
	if err != nil {
		return err
	}
	out := &orderv1.ExportOrdersResponse{}
	if err := s.db.Row(ctx, `SELECT count(*) FROM orders o WHERE `+f.where, f.args...).Scan(&out.Total); err != nil {
		return store.Wrap(err)
	}
	write := writeCSV
	var head bytes.Buffer
	if req.GetFormat() == orderv1.ExportOrdersRequest_FORMAT_JSON_LINES {
		write = writeJSONLines
	} else if err := csvRows(&head, [][]string{{"order_id", "placed_at", "state", "market", "currency", "merchant_id", "sku", "title", "quantity", "unit_minor", "total_minor"}}); err != nil {
		return err
	}
	for after, first := "", true; ; first = false {
		found, err := s.page(ctx, f, after, exportBatch)
		if err != nil {
			return err
		}
		var text bytes.Buffer
		if first {
			text = head
		}
		for _, o := range found {
			if err := write(&text, f.show(o)); err != nil {
				return err
			}
			after = o.id
		}
		out.Done += int64(len(found))
		if len(found) > 0 || first {
			if err := stream.Send(&orderv1.ExportOrdersResponse{Data: text.Bytes(), Done: out.GetDone(), Total: max(out.GetTotal(), out.GetDone())}); err != nil {
				return err
			}
		}
		if len(found) < exportBatch {
			return nil
		}
	}
}

func writeJSONLines(to *bytes.Buffer, o *orderv1.Order) error {
	b, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(o)
	if err != nil {
		return err
	}
	to.Write(append(b, '\n'))
	return nil
}

func writeCSV(to *bytes.Buffer, o *orderv1.Order) error {
	rows := make([][]string, 0, len(o.GetLines()))
	for _, l := range o.GetLines() {
		rows = append(rows, []string{
			o.GetOrderId(), o.GetPlacedAt().AsTime().Format(time.RFC3339), stateNames[o.GetState()], o.GetMarket(), l.GetTotal().GetCurrencyCode(),
			l.GetMerchantId(), l.GetSku(), l.GetTitle(), strconv.FormatInt(l.GetQuantity(), 10),
			strconv.FormatInt(l.GetUnitPrice().GetMinorUnits(), 10), strconv.FormatInt(l.GetTotal().GetMinorUnits(), 10),
		})
	}
	return csvRows(to, rows)
}

// csvRows writes rows. A cell that a spreadsheet would take for a formula is
// made a text: https://owasp.org/www-community/attacks/CSV_Injection
func csvRows(to *bytes.Buffer, rows [][]string) error {
	w := csv.NewWriter(to)
	w.UseCRLF = true
	for _, row := range rows {
		for i, cell := range row {
			if cell != "" && strings.ContainsRune("=+-@\t\r\n", rune(cell[0])) {
				row[i] = "'" + cell
			}
		}
		if err := w.Write(row); err != nil {
			return err
		}
	}
	w.Flush()
	return w.Error()
}
