//! Encapsulated pixel data (PS3.5 A.4): fragments to the bytes of each frame.

use std::borrow::Cow;

use super::codecs;
use super::error::DecodeError;
use super::format::Format;

/// Joins the fragments of each frame.
///
/// Where streams have a beginning that nothing inside them looks like (JPEG and JPEG 2000), that decides. Otherwise one
/// fragment is one frame, or the offset table says where frames begin.
pub(super) fn frames<'a>(
    fragments: &'a [Vec<u8>],
    offset_table: &[u32],
    count: usize,
) -> Result<Vec<Cow<'a, [u8]>>, DecodeError> {
    let fragments = match fragments.iter().rposition(|fragment| !fragment.is_empty()) {
        Some(last) => &fragments[..=last],
        None => return Err(truncated()),
    };
    let starts = if codecs::begins_stream(&fragments[0]) {
        (0..fragments.len())
            .filter(|&index| codecs::begins_stream(&fragments[index]))
            .collect()
    } else if count == 1 && offset_table.len() <= 1 {
        vec![0]
    } else if fragments.len() == count {
        (0..count).collect()
    } else if fragments.len() < count {
        return Err(truncated());
    } else {
        starts_by_offset(fragments, offset_table).ok_or_else(|| malformed(NO_FRAMES))?
    };
    if starts.len() < count {
        return Err(truncated());
    }
    if starts.len() > count {
        return Err(malformed(TOO_MANY));
    }
    let ends = starts.iter().skip(1).copied().chain([fragments.len()]);
    let joined = starts
        .iter()
        .zip(ends)
        .map(|(&start, end)| match &fragments[start..end] {
            [one] => Cow::Borrowed(one.as_slice()),
            several => Cow::Owned(several.concat()),
        });
    Ok(joined.collect())
}

const NO_FRAMES: &str =
    "fragments are more than frames, and no offset table says which belong together";
const TOO_MANY: &str = "its pixel data has more frames than NumberOfFrames says";

fn truncated() -> DecodeError {
    DecodeError::Truncated {
        format: Format::Dicom,
    }
}

fn malformed(detail: &str) -> DecodeError {
    DecodeError::Malformed {
        format: Format::Dicom,
        detail: detail.into(),
    }
}

/// Offsets count from the first fragment's item header, eight bytes each. None if one of them is no fragment's.
fn starts_by_offset(fragments: &[Vec<u8>], offset_table: &[u32]) -> Option<Vec<usize>> {
    let mut offset = 0;
    let mut starts = Vec::new();
    for (index, fragment) in fragments.iter().enumerate() {
        let next = offset_table.get(starts.len());
        if next.is_some_and(|&start| start as usize == offset) {
            starts.push(index);
        }
        offset += fragment.len() + 8;
    }
    (starts.first() == Some(&0) && starts.len() == offset_table.len()).then_some(starts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(
        fragments: &[&[u8]],
        offsets: &[u32],
        count: usize,
    ) -> Result<Vec<Vec<u8>>, &'static str> {
        let fragments: Vec<Vec<u8>> = fragments.iter().map(|part| part.to_vec()).collect();
        match frames(&fragments, offsets, count) {
            Ok(frames) => Ok(frames.into_iter().map(Cow::into_owned).collect()),
            Err(error) => Err(error.kind()),
        }
    }

    const A: &[u8] = &[0xff, 0xd8, 0xff, 1];
    const B: &[u8] = &[0xff, 0xd8, 0xff, 2];
    const REST: &[u8] = &[7, 7];

    #[test]
    fn beginnings_of_streams_decide_whatever_the_offset_table_says() {
        let whole = vec![[A, REST].concat(), B.to_vec()];
        for offsets in [&[][..], &[0, 22], &[0, 12], &[0, 0], &[5, 6, 7]] {
            assert_eq!(joined(&[A, REST, B], offsets, 2).as_ref(), Ok(&whole));
        }
        assert_eq!(joined(&[A, REST, B, b""], &[], 2), Ok(whole));
        assert_eq!(joined(&[A, B], &[], 1), Err("malformed"));
        assert_eq!(joined(&[A, REST], &[], 2), Err("truncated"));
        assert_eq!(joined(&[b"", b""], &[], 1), Err("truncated"));
    }

    #[test]
    fn other_streams_are_one_fragment_each_or_stand_in_the_offset_table() {
        let parts: [&[u8]; 3] = [&[1, 1], &[2, 2], &[3, 3]];
        assert_eq!(joined(&parts, &[], 3).unwrap().len(), 3);
        assert_eq!(joined(&parts, &[0], 1), Ok(vec![vec![1, 1, 2, 2, 3, 3]]));
        assert_eq!(
            joined(&parts, &[0, 20], 2),
            Ok(vec![vec![1, 1, 2, 2], vec![3, 3]])
        );
        for wrong in [&[][..], &[0, 19], &[20, 0], &[10, 20]] {
            assert_eq!(joined(&parts, wrong, 2), Err("malformed"), "{wrong:?}");
        }
        assert_eq!(joined(&parts, &[], 4), Err("truncated"));
    }
}
