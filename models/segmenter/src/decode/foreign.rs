//! Formats that arrive although nothing here reads them: an error that names them is worth more than one that
//! says what is read.

/// What the beginning of a file (348 bytes are enough) says it is, for the sentence "the content is ...".
pub(super) fn format_name(bytes: &[u8]) -> Option<&'static str> {
    let starts = |magic: &[u8]| bytes.starts_with(magic);
    let at = |offset: usize, magic: &[u8]| bytes.get(offset..offset + magic.len()) == Some(magic);
    let nifti_size = starts(&348_i32.to_le_bytes()) || starts(&348_i32.to_be_bytes());
    if nifti_size {
        let nifti = at(344, b"n+1\0") || at(344, b"ni1\0");
        return Some(if nifti {
            "a NIfTI volume"
        } else {
            "an Analyze header"
        });
    }
    let table: [(bool, &'static str); 17] = [
        (at(4, b"n+2\0") || at(4, b"ni2\0"), "a NIfTI-2 volume"),
        (starts(b"NRRD"), "an NRRD volume"),
        (
            starts(b"ObjectType") || starts(b"NDims"),
            "a MetaImage volume",
        ),
        (
            starts(b"\x1f\x8b"),
            "compressed with gzip (a NIfTI volume, .nii.gz?)",
        ),
        (starts(b"\x89HDF\r\n"), "an HDF5 file"),
        (starts(b"\x93NUMPY"), "a NumPy array"),
        (starts(b"PK\x03\x04"), "a ZIP archive"),
        (at(257, b"ustar"), "a tar archive"),
        (starts(b"7z\xbc\xaf"), "a 7-Zip archive"),
        (starts(b"%PDF"), "a PDF document"),
        (starts(b"GIF8"), "a GIF picture"),
        (starts(b"RIFF") && at(8, b"WEBP"), "a WebP picture"),
        (
            at(4, b"jP  \r\n\x87\n") || starts(b"\xff\x4f\xff\x51"),
            "JPEG 2000 outside DICOM",
        ),
        (
            at(4, b"JXL \r\n\x87\n") || starts(b"\xff\x0a"),
            "JPEG XL outside DICOM",
        ),
        (at(4, b"ftyp"), "a HEIF picture or a video"),
        (starts(b"BM") && at(6, &[0; 4]), "a BMP picture"),
        (starts(b"<?xml") || starts(b"<svg"), "an XML document"),
    ];
    table
        .into_iter()
        .find_map(|(fits, name)| fits.then_some(name))
}

#[cfg(test)]
mod tests {
    use super::super::decode;
    use super::*;
    use crate::decode::limits::Limits;

    #[test]
    fn volumes_and_archives_are_named() {
        let mut nifti = vec![0; 348];
        nifti[..4].copy_from_slice(&348_i32.to_le_bytes());
        assert_eq!(format_name(&nifti), Some("an Analyze header"));
        nifti[344..].copy_from_slice(b"n+1\0");
        assert_eq!(format_name(&nifti), Some("a NIfTI volume"));
        assert_eq!(format_name(b"NRRD0004\n"), Some("an NRRD volume"));
        assert_eq!(
            format_name(b"ObjectType = Image\n"),
            Some("a MetaImage volume")
        );
        assert!(format_name(&[0x1f, 0x8b, 8]).unwrap().contains(".nii.gz"));
        assert_eq!(format_name(b"not an image at all"), None);
        assert_eq!(format_name(b""), None);
    }

    #[test]
    fn the_error_names_the_format_and_what_to_send() {
        let error = decode(b"NRRD0004\ntype: short\n", &Limits::STANDARD).unwrap_err();
        assert_eq!(error.kind(), "other_format");
        let words = error.to_string();
        assert!(
            words.contains("an NRRD volume") && words.contains("DICOM, PNG"),
            "{words}"
        );
    }
}
