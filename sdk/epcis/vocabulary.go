package epcis

import (
	"slices"
	"strings"
)

func words(s string) []string { return strings.Fields(s) }

// Words of the Core Business Vocabulary 2.0, as JSON writes them.
var (
	bizSteps = words(`accepting arriving assembling collecting commissioning consigning creating_class_instance cycle_counting decommissioning
		departing destroying disassembling dispensing encoding entering_exiting holding inspecting installing killing loading other packing picking
		receiving removing repackaging repairing replacing reserving retail_selling sampling sensor_reporting shipping staging_outbound stock_taking
		stocking storing transporting unloading unpacking void_shipping`)
	dispositions = words(`active available completeness_inferred completeness_verified conformant container_closed container_open damaged destroyed
		dispensed disposed encoded expired in_progress in_transit inactive mismatch_class mismatch_instance mismatch_quantity needs_replacement
		no_pedigree_match non_conformant non_sellable_other partially_dispensed recalled reserved retail_sold returned sellable_accessible
		sellable_not_accessible stolen unavailable unknown`)
	transactionTypes = words(`bol cert desadv inv pedigree po poc prodorder recadv rma testprd testres upevt`)
	partyTypes       = words(`owning_party possessing_party location`)
	errorReasons     = words(DidNotOccur + ` incorrect_data`)
	alertTypes       = words(`ALARM_CONDITION ERROR_CONDITION`)
	components       = words(`x y z axial_distance azimuth height spherical_radius polar_angle elevation_angle easting northing latitude longitude altitude`)
	measurements     = words(`AbsoluteHumidity AbsorbedDose AbsorbedDoseRate Acceleration Altitude AmountOfSubstance AmountOfSubstancePerUnitVolume Angle
		AngularAcceleration AngularMomentum AngularVelocity Area Capacitance Conductance Conductivity Count Density Dimensionless DoseEquivalent
		DoseEquivalentRate DynamicViscosity ElectricCharge ElectricCurrent ElectricCurrentDensity ElectricFieldStrength Energy Exposure Force Frequency
		Illuminance Inductance Irradiance KinematicViscosity Length LinearMomentum Luminance LuminousFlux LuminousIntensity MagneticFlux
		MagneticFluxDensity MagneticVectorPotential Mass MassConcentration MassFlowRate MassPerAreaTime MemoryCapacity MolalityOfSolute MolarEnergy
		MolarMass MolarVolume Power Pressure RadiantFlux RadiantIntensity Radioactivity RelativeHumidity Resistance Resistivity SolidAngle
		SpecificVolume Speed SurfaceDensity SurfaceTension Temperature Time Torque Voltage Volume VolumeFlowRate VolumeFraction VolumetricFlux
		Wavenumber`)
)

// DidNotOccur is the reason of an error declaration about an event that never
// was: nothing corrects it.
const DidNotOccur = "did_not_occur"

// vocabulary is a set of words with the address that each has as a URI.
type vocabulary struct {
	words []string
	base  string
	// urn is the older address.
	urn string
}

const (
	cbv = "https://ref.gs1.org/cbv/"
	voc = "https://gs1.org/voc/"
)

var (
	bizStepWords     = vocabulary{bizSteps, cbv + "BizStep-", "urn:epcglobal:cbv:bizstep:"}
	dispositionWords = vocabulary{dispositions, cbv + "Disp-", "urn:epcglobal:cbv:disp:"}
	transactionWords = vocabulary{transactionTypes, cbv + "BTT-", "urn:epcglobal:cbv:btt:"}
	partyWords       = vocabulary{partyTypes, cbv + "SDT-", "urn:epcglobal:cbv:sdt:"}
	reasonWords      = vocabulary{errorReasons, cbv + "ER-", "urn:epcglobal:cbv:er:"}
	alertWords       = vocabulary{alertTypes, voc, ""}
	componentWords   = vocabulary{components, cbv + "Comp-", ""}
	measurementWords = vocabulary{measurements, voc, ""}
)

// bare is a word of the vocabulary for its URI; anything else stays as it is.
func (v vocabulary) bare(s string) string {
	for _, base := range []string{v.base, v.urn} {
		if w, ok := strings.CutPrefix(s, base); ok && base != "" && slices.Contains(v.words, w) {
			return w
		}
	}
	return s
}

// full is the URI of a word.
func (v vocabulary) full(s string) string {
	if s = v.bare(s); slices.Contains(v.words, s) {
		return v.base + s
	}
	return s
}

// BizStep is the one spelling of a business step: a word of the CBV for its
// URI, what is not of the CBV as it stands.
func BizStep(s string) string { return bizStepWords.bare(s) }

// Disposition is the one spelling of a disposition.
func Disposition(s string) string { return dispositionWords.bare(s) }

// IsBizStep tells whether a word is a business step of the CBV.
func IsBizStep(word string) bool { return slices.Contains(bizSteps, word) }

// IsDisposition tells whether a word is a disposition of the CBV.
func IsDisposition(word string) bool { return slices.Contains(dispositions, word) }
