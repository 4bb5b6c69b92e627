//! Values of single DICOM attributes, for who has to know what an image is before it is segmented.

use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry};
use dicom_core::{Tag, VR};
use dicom_dictionary_std::StandardDataDictionary;

use super::attributes::present;
use super::dataset;
use super::error::DecodeError;
use super::format::Format;
use super::limits::{Limits, check};
use super::magic::sniff;

/// An attribute of the standard's dictionary whose values are short texts or numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute {
    tag: Tag,
    keyword: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeywordError {
    #[error("is no DICOM keyword; write it as the dictionary does, like `SeriesDescription`")]
    Unknown,
    #[error("has no plain value (it is a sequence or binary); use an attribute of text or numbers")]
    NoText,
    #[error("is not part of the data set; use an attribute of the image itself")]
    Elsewhere,
}

impl Attribute {
    pub fn by_keyword(keyword: &str) -> Result<Self, KeywordError> {
        let entry = StandardDataDictionary
            .by_name(keyword)
            .ok_or(KeywordError::Unknown)?;
        let tag = entry.tag();
        if tag.group() < 8 || tag.group() >= PIXEL_GROUP {
            return Err(KeywordError::Elsewhere);
        }
        match entry.vr().exact() {
            Some(VR::SQ | VR::OB | VR::OW | VR::OD | VR::OF | VR::OL | VR::OV | VR::UN) | None => {
                Err(KeywordError::NoText)
            }
            Some(_) => Ok(Self {
                tag,
                keyword: entry.alias(),
            }),
        }
    }

    pub fn keyword(self) -> &'static str {
        self.keyword
    }
}

/// Pixels and what follows them: no attribute of an image.
const PIXEL_GROUP: u16 = 0x7fe0;

/// Values of each attribute, without padding; none for one that is absent or empty. `None` for a file
/// that is no DICOM. The pixels are not read.
pub fn values(
    bytes: &[u8],
    limits: &Limits,
    attributes: &[Attribute],
) -> Result<Option<Vec<Vec<String>>>, DecodeError> {
    check("the file in bytes", bytes.len() as u64, limits.max_bytes)?;
    if sniff(bytes) != Some(Format::Dicom) {
        return Ok(None);
    }
    // As in `decode`: a parser that panics must not end the daemon.
    let read = std::panic::catch_unwind(|| {
        let object = dataset::read(bytes, limits, false)?.object;
        let values = |attribute: &Attribute| {
            let element = present(&object, attribute.tag)?;
            let values = element.value().to_multi_str().ok()?;
            let values = values.iter().map(|value| trimmed(value));
            Some(values.filter(|value| !value.is_empty()).collect())
        };
        let values = attributes.iter().map(|a| values(a).unwrap_or_default());
        Ok(Some(values.collect()))
    });
    let format = Format::Dicom;
    read.unwrap_or(Err(DecodeError::DecoderPanicked { format }))
}

fn trimmed(value: &str) -> String {
    value.trim_matches(['\0', ' ']).to_owned()
}
