//! What a segmentation says of itself.

use contract::manifest::Class;

/// Who made a segmentation, from what, under which names.
#[derive(Debug, Clone)]
pub struct About<'a> {
    pub sop_instance_uid: String,
    pub series_instance_uid: String,
    pub dimension_organization_uid: String,
    /// Of the series; viewers show the instance with the highest one.
    pub instance_number: usize,
    /// Which volume of the images' series it is, where there are several.
    pub volume: &'a str,
    /// Of the model.
    pub classes: &'a [Class],
    pub model_name: &'a str,
    pub model_version: &'a str,
    pub software_version: &'a str,
    /// Stands as the serial number of the device.
    pub node: &'a str,
    /// RFC 3339, UTC.
    pub made_at: &'a str,
}
