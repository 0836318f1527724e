package main

import (
	"bytes"
	"encoding/csv"
	"errors"
	"io"
	"strings"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/proto/entrepot/order/v1/orderv1connect"
	"github.com/entrepot/entrepot/sdk/call"
)

func (s *shop) information(p call.Principal) orderv1connect.OrderInformationServiceClient {
	return orderv1connect.NewOrderInformationServiceClient(s.Client(call.Info{Principal: p, Market: "DE"}))
}

func (s *shop) export(t *testing.T, p call.Principal, format orderv1.ExportOrdersRequest_Format) (text string, last *orderv1.ExportOrdersResponse) {
	t.Helper()
	stream, err := s.information(p).ExportOrders(t.Context(), &orderv1.ExportOrdersRequest{Format: format})
	require.NoError(t, err)
	for {
		res, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return text, last
		}
		require.NoError(t, err)
		text, last = text+string(res.GetData()), res
	}
}

func TestEveryoneFindsTheirOwnOrdersAlone(t *testing.T) {
	t.Parallel()
	s := open(t)
	mine, _ := s.place(t, consumer, "sku_tea", 2, "sku_cup", 1)
	cup, _ := s.place(t, stranger, "sku_cup", 1)
	tea, _ := s.place(t, guest, "sku_tea", 1)
	future := timestamppb.New(mine.GetPlacedAt().AsTime().AddDate(1, 0, 0))
	for name, c := range map[string]struct {
		who    call.Principal
		filter *orderv1.OrderFilter
		want   []*orderv1.Order
	}{
		"a consumer's own":        {consumer, nil, []*orderv1.Order{mine}},
		"a merchant's part":       {member("mrc_two"), nil, []*orderv1.Order{cup, mine}},
		"all, for staff":          {staff, nil, []*orderv1.Order{tea, cup, mine}},
		"of a merchant":           {staff, &orderv1.OrderFilter{MerchantId: "mrc_one"}, []*orderv1.Order{tea, mine}},
		"with a sku":              {staff, &orderv1.OrderFilter{Sku: "sku_cup"}, []*orderv1.Order{cup, mine}},
		"not others' goods":       {member("mrc_two"), &orderv1.OrderFilter{Sku: "sku_tea"}, nil},
		"nor by their titles":     {member("mrc_two"), &orderv1.OrderFilter{Title: "SKU_TEA"}, nil},
		"by title":                {member("mrc_one"), &orderv1.OrderFilter{Title: "KU_te"}, []*orderv1.Order{tea, mine}},
		"a pattern is no pattern": {staff, &orderv1.OrderFilter{Title: "%%"}, nil},
		"by id":                   {staff, &orderv1.OrderFilter{OrderId: cup.GetOrderId()}, []*orderv1.Order{cup}},
		"by another's id":         {consumer, &orderv1.OrderFilter{OrderId: cup.GetOrderId()}, nil},
		"by state":                {staff, &orderv1.OrderFilter{States: []orderv1.Order_State{orderv1.Order_STATE_CANCELLED}}, nil},
		"by market":               {staff, &orderv1.OrderFilter{Market: "JP"}, nil},
		"before":                  {staff, &orderv1.OrderFilter{PlacedTo: mine.GetPlacedAt()}, nil},
		"from":                    {staff, &orderv1.OrderFilter{PlacedFrom: mine.GetPlacedAt(), PlacedTo: future}, []*orderv1.Order{tea, cup, mine}},
		"not edited":              {staff, &orderv1.OrderFilter{Edited: true}, nil},
	} {
		var got, want []string
		for token := ""; ; {
			res, err := s.information(c.who).SearchOrders(t.Context(), &orderv1.SearchOrdersRequest{Filter: c.filter, PageSize: 1, PageToken: token})
			require.NoError(t, err, name)
			for _, o := range res.GetOrders() {
				got = append(got, o.GetOrderId())
				require.Nil(t, o.GetShipTo())
				if c.who.Kind == call.Merchant {
					require.Len(t, o.GetLines(), 1, name)
					require.Empty(t, o.GetAccountId()+o.GetShipToRef(), name)
				}
			}
			if token = res.GetNextPageToken(); token == "" {
				break
			}
		}
		for _, o := range c.want {
			want = append(want, o.GetOrderId())
		}
		require.Equal(t, want, got, name)
	}
	_, err := s.information(consumer).SearchOrders(t.Context(), &orderv1.SearchOrdersRequest{Filter: &orderv1.OrderFilter{MerchantId: "mrc_one"}})
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
}

func TestAnExportIsWholeAndRunsNothing(t *testing.T) {
	t.Parallel()
	s := open(t)
	o, _ := s.place(t, consumer, "sku_tea", 2, "sku_cup", 1)
	s.place(t, guest, "sku_pot", 1)
	_, err := s.DB.ExecContext(t.Context(), `UPDATE order_line SET title = '=HYPERLINK("http://evil", "a,b")' WHERE sku = 'sku_tea'`)
	require.NoError(t, err)

	text, last := s.export(t, staff, orderv1.ExportOrdersRequest_FORMAT_CSV)
	require.EqualValues(t, 2, last.GetDone())
	require.EqualValues(t, 2, last.GetTotal())
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	require.NoError(t, err)
	require.Len(t, rows, 1+3, "a header, and a row for each line")
	require.Equal(t, []string{o.GetOrderId(), rows[2][1], "placed", "DE", "EUR", "mrc_one", "sku_tea", `'=HYPERLINK("http://evil", "a,b")`, "2", "1250", "2500"}, rows[2])

	text, last = s.export(t, consumer, orderv1.ExportOrdersRequest_FORMAT_JSON_LINES)
	require.EqualValues(t, 1, last.GetTotal())
	one := &orderv1.Order{}
	require.NoError(t, protojson.Unmarshal([]byte(strings.TrimSpace(text)), one))
	require.Equal(t, o.GetOrderId(), one.GetOrderId())

	text, _ = s.export(t, member("mrc_three"), orderv1.ExportOrdersRequest_FORMAT_UNSPECIFIED)
	require.Equal(t, 1, strings.Count(text, "\n"), "a header alone")
}

func TestCellsThatASpreadsheetWouldRunAreTexts(t *testing.T) {
	t.Parallel()
	for cell, want := range map[string]string{
		"=1+1": "'=1+1", "+1": "'+1", "-1": "'-1", "@SUM(A1)": "'@SUM(A1)", "\tx": "'\tx", "tea": "tea", "": "", "1-2": "1-2", "Ü=": "Ü=",
	} {
		var b bytes.Buffer
		require.NoError(t, csvRows(&b, [][]string{{cell}}))
		require.Equal(t, want+"\r\n", b.String(), "%q", cell)
	}
}
