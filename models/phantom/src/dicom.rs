//! A phantom as MR Image Storage, the way a scanner would send it.

use std::path::{Path, PathBuf};

use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};

use crate::Phantom;
use crate::draw::Draw;

/// Short-axis plane: direction of a row and of a column, in patient coordinates.
const ROW: [f64; 3] = [2.0 / 3.0, 2.0 / 3.0, -1.0 / 3.0];
const COLUMN: [f64; 3] = [-2.0 / 3.0, 1.0 / 3.0, -2.0 / 3.0];
/// From base to apex.
const APEX: [f64; 3] = [1.0 / 3.0, -2.0 / 3.0, -2.0 / 3.0];
/// Nominal length of a heart beat, ms.
const BEAT: f64 = 900.0;

#[derive(Debug, thiserror::Error)]
pub enum DicomError {
    #[error("cannot encode the phantom as DICOM")]
    Encode(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("cannot write {}: check that the folder exists and is writable", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// Who and what an instance is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ids {
    pub patient_id: String,
    pub study_instance_uid: String,
    pub series_instance_uid: String,
    pub sop_instance_uid: String,
    /// From 1.
    pub instance_number: u32,
}

impl Ids {
    /// UIDs under 2.25 that follow from the phantom's seed and the numbers: the same file gets the
    /// same UIDs wherever it is made.
    pub fn new(phantom: &Phantom, patient: u32, instance_number: u32) -> Self {
        let uid = |kind: u64, number: u64| uid(&[phantom.seed, u64::from(patient), kind, number]);
        Self {
            patient_id: format!("PHANTOM-{patient:04}"),
            study_instance_uid: uid(1, 0),
            series_instance_uid: uid(2, 0),
            sop_instance_uid: uid(3, u64::from(instance_number)),
            instance_number,
        }
    }
}

/// PS3.5 section B.2: a UUID as a decimal number.
fn uid(keys: &[u64]) -> String {
    let mut draw = Draw::new(keys);
    let number = u128::from(draw.bits()) << 64 | u128::from(draw.bits());
    // Version 8 (custom) and the variant of RFC 9562.
    let number = number & !(0xf << 76) | 8 << 76;
    let number = number & !(3 << 62) | 2 << 62;
    format!("2.25.{number}")
}

/// Writes the file that [`to_bytes`] describes.
pub fn write(path: &Path, phantom: &Phantom, ids: &Ids) -> Result<(), DicomError> {
    let bytes = to_bytes(phantom, ids)?;
    std::fs::write(path, bytes).map_err(|source| DicomError::Write {
        path: path.to_owned(),
        source,
    })
}

/// DICOM file, explicit VR little endian, 16 bits allocated, 12 stored, unsigned.
pub fn to_bytes(phantom: &Phantom, ids: &Ids) -> Result<Vec<u8>, DicomError> {
    let mut object = InMemDicomObject::new_empty();
    identify(&mut object, phantom, ids);
    acquisition(&mut object, phantom);
    position(&mut object, phantom);
    pixels(&mut object, phantom);
    let meta = FileMetaTableBuilder::new()
        .transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN)
        .media_storage_sop_class_uid(uids::MR_IMAGE_STORAGE)
        .media_storage_sop_instance_uid(&ids.sop_instance_uid);
    let file = object
        .with_meta(meta)
        .map_err(|e| DicomError::Encode(e.into()))?;
    let mut bytes = Vec::with_capacity(phantom.image.data.len() * 2 + 4096);
    file.write_all(&mut bytes)
        .map_err(|e| DicomError::Encode(e.into()))?;
    Ok(bytes)
}

fn text(object: &mut InMemDicomObject, tag: Tag, vr: VR, value: &str) {
    object.put(DataElement::new(tag, vr, PrimitiveValue::from(value)));
}

fn number(object: &mut InMemDicomObject, tag: Tag, value: usize) {
    let value = u16::try_from(value).expect("a phantom has fewer than 65536 rows and grey values");
    object.put(DataElement::new(tag, VR::US, PrimitiveValue::from(value)));
}

fn decimals(object: &mut InMemDicomObject, tag: Tag, values: &[f64]) {
    let values: Vec<String> = values.iter().map(|value| format!("{value:.6}")).collect();
    text(object, tag, VR::DS, &values.join("\\"));
}

fn identify(object: &mut InMemDicomObject, phantom: &Phantom, ids: &Ids) {
    let frame_of_reference = uid(&[phantom.seed, 4]);
    let instance = ids.instance_number.to_string();
    for (tag, vr, value) in [
        (tags::SPECIFIC_CHARACTER_SET, VR::CS, "ISO_IR 192"),
        (tags::IMAGE_TYPE, VR::CS, "DERIVED\\SECONDARY\\OTHER"),
        (tags::SOP_CLASS_UID, VR::UI, uids::MR_IMAGE_STORAGE),
        (tags::SOP_INSTANCE_UID, VR::UI, &ids.sop_instance_uid),
        (tags::STUDY_DATE, VR::DA, "20260101"),
        (tags::STUDY_TIME, VR::TM, "120000"),
        (tags::ACCESSION_NUMBER, VR::SH, ""),
        (tags::MODALITY, VR::CS, "MR"),
        (tags::MANUFACTURER, VR::LO, "Scanside phantom"),
        (tags::REFERRING_PHYSICIAN_NAME, VR::PN, ""),
        (
            tags::SERIES_DESCRIPTION,
            VR::LO,
            "Synthetic short-axis cine",
        ),
        (tags::PATIENT_NAME, VR::PN, &ids.patient_id),
        (tags::PATIENT_ID, VR::LO, &ids.patient_id),
        (tags::PATIENT_BIRTH_DATE, VR::DA, ""),
        (tags::PATIENT_SEX, VR::CS, "O"),
        (tags::STUDY_INSTANCE_UID, VR::UI, &ids.study_instance_uid),
        (tags::SERIES_INSTANCE_UID, VR::UI, &ids.series_instance_uid),
        (tags::STUDY_ID, VR::SH, "1"),
        (tags::SERIES_NUMBER, VR::IS, "1"),
        (tags::INSTANCE_NUMBER, VR::IS, &instance),
        (tags::FRAME_OF_REFERENCE_UID, VR::UI, &frame_of_reference),
        (tags::POSITION_REFERENCE_INDICATOR, VR::LO, ""),
        (tags::LATERALITY, VR::CS, ""),
    ] {
        text(object, tag, vr, value);
    }
}

fn acquisition(object: &mut InMemDicomObject, phantom: &Phantom) {
    for (tag, vr, value) in [
        (tags::SCANNING_SEQUENCE, VR::CS, "GR"),
        (tags::SEQUENCE_VARIANT, VR::CS, "SS"),
        (tags::SCAN_OPTIONS, VR::CS, "CG"),
        (tags::MR_ACQUISITION_TYPE, VR::CS, "2D"),
        (tags::REPETITION_TIME, VR::DS, "3.6"),
        (tags::ECHO_TIME, VR::DS, "1.6"),
        (tags::ECHO_TRAIN_LENGTH, VR::IS, "1"),
        (tags::PATIENT_POSITION, VR::CS, "HFS"),
    ] {
        text(object, tag, vr, value);
    }
    decimals(object, tags::SLICE_THICKNESS, &[phantom.slice_thickness_mm]);
    decimals(
        object,
        tags::SPACING_BETWEEN_SLICES,
        &[phantom.slice_thickness_mm],
    );
    decimals(object, tags::TRIGGER_TIME, &[phantom.phase * BEAT]);
}

fn position(object: &mut InMemDicomObject, phantom: &Phantom) {
    let [row_spacing, col_spacing] = phantom.spacing_mm;
    let from_base = phantom.slice as f64 * phantom.slice_thickness_mm;
    // The position is the centre of the first pixel; the middle of the picture is the origin.
    let half_width = (phantom.image.cols - 1) as f64 / 2.0 * col_spacing;
    let half_height = (phantom.image.rows - 1) as f64 / 2.0 * row_spacing;
    let corner: [f64; 3] = std::array::from_fn(|i| {
        APEX[i] * from_base - ROW[i] * half_width - COLUMN[i] * half_height
    });
    decimals(object, tags::IMAGE_POSITION_PATIENT, &corner);
    decimals(
        object,
        tags::IMAGE_ORIENTATION_PATIENT,
        &[ROW, COLUMN].concat(),
    );
    decimals(object, tags::SLICE_LOCATION, &[from_base]);
    decimals(object, tags::PIXEL_SPACING, &phantom.spacing_mm);
}

fn pixels(object: &mut InMemDicomObject, phantom: &Phantom) {
    let image = &phantom.image;
    let values: Vec<u16> = image.data.iter().map(|&value| value as u16).collect();
    let largest = values.iter().copied().max().unwrap_or_default();
    number(object, tags::SAMPLES_PER_PIXEL, image.channels);
    text(
        object,
        tags::PHOTOMETRIC_INTERPRETATION,
        VR::CS,
        "MONOCHROME2",
    );
    number(object, tags::ROWS, image.rows);
    number(object, tags::COLUMNS, image.cols);
    number(object, tags::BITS_ALLOCATED, 16);
    number(object, tags::BITS_STORED, 12);
    number(object, tags::HIGH_BIT, 11);
    number(object, tags::PIXEL_REPRESENTATION, 0);
    let width = f64::from(largest.max(1));
    decimals(object, tags::WINDOW_CENTER, &[width / 2.0]);
    decimals(object, tags::WINDOW_WIDTH, &[width]);
    let value = PrimitiveValue::U16(values.into());
    object.put(DataElement::new(tags::PIXEL_DATA, VR::OW, value));
}
