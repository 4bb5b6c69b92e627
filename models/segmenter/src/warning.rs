//! What a reader of a result should know.

/// What a reader of the result should know; it was made all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Warning {
    /// Of a frame or of all: areas have px only.
    SpacingUnknown,
    /// Areas are those of the shadow on the detector.
    SpacingAtDetector,
    /// Areas are those on the film that was scanned.
    SpacingNominal,
    /// An SOP class that is not the standard's was taken for an image.
    SopClassUnknown,
    /// NaN and infinities were taken for the lowest value.
    ValuesNotFinite,
    /// The file says how it wants to be turned, and was: masks lie on the picture as viewers show it.
    OrientationApplied,
    /// A frame has one value everywhere, or nothing but one within the model's window.
    ImageFlat,
}

impl Warning {
    /// Stable code for messages.
    pub fn code(self) -> &'static str {
        match self {
            Self::SpacingUnknown => "spacing_unknown",
            Self::SpacingAtDetector => "spacing_at_detector",
            Self::SpacingNominal => "spacing_nominal",
            Self::SopClassUnknown => "sop_class_unknown",
            Self::ValuesNotFinite => "values_not_finite",
            Self::OrientationApplied => "orientation_applied",
            Self::ImageFlat => "image_flat",
        }
    }
}
