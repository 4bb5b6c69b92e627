//! What an image file holds, and who it is of.

use contract::Image;

use super::format::Format;
use super::spacing::Spacing;
use crate::warning::Warning;

/// What an image file holds, without the patient.
#[derive(Debug)]
pub struct Scan {
    /// One or more, all of the same shape.
    pub frames: Vec<Image>,
    pub spacing: Spacing,
    /// DICOM Modality (0008,0060), e.g. `MR`.
    pub modality: Option<String>,
    pub format: Format,
    pub identifiers: Identifiers,
    pub warnings: Vec<Warning>,
}

/// Who the image is of. Kept apart so that it cannot slip into a message or a log: not `Serialize`,
/// and `Debug` says only which fields are set.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Identifiers {
    pub study_instance_uid: Option<String>,
    pub sop_instance_uid: Option<String>,
    pub series_instance_uid: Option<String>,
    pub patient_id: Option<String>,
    pub instance_number: Option<i64>,
}

impl std::fmt::Debug for Identifiers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hidden = |set: bool| if set { "hidden" } else { "absent" };
        f.debug_struct("Identifiers")
            .field(
                "study_instance_uid",
                &hidden(self.study_instance_uid.is_some()),
            )
            .field("sop_instance_uid", &hidden(self.sop_instance_uid.is_some()))
            .field(
                "series_instance_uid",
                &hidden(self.series_instance_uid.is_some()),
            )
            .field("patient_id", &hidden(self.patient_id.is_some()))
            .field("instance_number", &hidden(self.instance_number.is_some()))
            .finish()
    }
}
