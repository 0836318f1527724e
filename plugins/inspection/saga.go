package main

import (
	"github.com/entrepot/entrepot/proto/entrepot/inspection/v1/inspectionv1connect"
	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"
	"github.com/entrepot/entrepot/sdk/saga"
)

// patient is how often a step is tried that waits for what the bus brings, or
// must be done whatever happens: for hours.
const patient = 100

// admitSaga takes goods that passed into the warehouse, and then closes their
// case. The order was given by the transaction that starts it.
var admitSaga = saga.Define("admit", 1,
	saga.Step{Name: "order", Undo: inspectionv1connect.InspectionStepServiceReopenCaseProcedure},
	saga.Step{Name: "admit", Do: warehousev1connect.GoodsStepServiceAdmitGoodsProcedure, Kind: saga.Pivot, MaxAttempts: patient},
	saga.Step{Name: "close", Do: inspectionv1connect.InspectionStepServiceCloseCaseProcedure, Kind: saga.Retriable, MaxAttempts: patient},
)

// refuseSaga moves goods of the warehouse that did not pass to where it was
// ordered.
var refuseSaga = saga.Define("refuse", 1,
	saga.Step{Name: "order", Undo: inspectionv1connect.InspectionStepServiceReopenCaseProcedure},
	saga.Step{Name: "refuse", Do: warehousev1connect.GoodsStepServiceRefuseGoodsProcedure, Kind: saga.Pivot, MaxAttempts: patient},
	saga.Step{Name: "close", Do: inspectionv1connect.InspectionStepServiceCloseCaseProcedure, Kind: saga.Retriable, MaxAttempts: patient},
)

// destroySaga writes off goods of the warehouse that were destroyed. What is
// destroyed cannot be undone: it goes on until the books say so.
var destroySaga = saga.Define("destroy", 1,
	saga.Step{Name: "write-off", Do: warehousev1connect.GoodsStepServiceRefuseGoodsProcedure, Kind: saga.Retriable, MaxAttempts: patient},
	saga.Step{Name: "close", Do: inspectionv1connect.InspectionStepServiceCloseCaseProcedure, Kind: saga.Retriable, MaxAttempts: patient},
)
