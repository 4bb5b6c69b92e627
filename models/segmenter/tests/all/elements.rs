//! Elements of a data set as bytes, explicit VR little endian.

/// A tag, its VR and the bytes of its value.
pub(crate) type Element = (u32, &'static [u8; 2], Vec<u8>);

pub(crate) fn data_set(elements: &[Element]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (tag, vr, value) in elements {
        bytes.extend(((tag >> 16) as u16).to_le_bytes());
        bytes.extend((*tag as u16).to_le_bytes());
        bytes.extend(*vr);
        if matches!(*vr, b"OW" | b"OB" | b"OF" | b"SQ") {
            bytes.extend([0, 0]);
            bytes.extend((value.len() as u32).to_le_bytes());
        } else {
            bytes.extend((value.len() as u16).to_le_bytes());
        }
        bytes.extend(value);
    }
    bytes
}
