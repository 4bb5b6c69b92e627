//! Images that a network should not meet without a word: pixels that are no numbers, and images of one value.

use std::path::Path;

use anyhow::{Result, ensure};
use contract::Image;

/// Gives pixels that are not finite the lowest value of the others, and says in words what is doubtful about
/// the image. One without any finite pixel is refused.
pub(super) fn mend(image: &mut Image) -> Result<Vec<String>> {
    let finite = image.data.iter().copied().filter(|value| value.is_finite());
    let lowest = finite.clone().reduce(f32::min);
    let Some(lowest) = lowest else {
        anyhow::bail!("no pixel is a finite number: leave the image out, or write it again");
    };
    let missing = image.data.len() - finite.count();
    let mut doubts = Vec::new();
    if missing > 0 {
        for value in image.data.iter_mut().filter(|value| !value.is_finite()) {
            *value = lowest;
        }
        let total = image.data.len();
        doubts.push(format!(
            "{missing} of {total} pixels are not finite; they are taken for the lowest value, {lowest}"
        ));
    }
    ensure!(image.channels > 0, "the image has no channels");
    let (first, rest) = image.data.split_at(image.channels);
    if rest
        .chunks_exact(image.channels)
        .all(|pixel| pixel == first)
    {
        doubts.push(format!(
            "all pixels have the value {}; leave it out if that is an error of its export",
            first
                .iter()
                .map(f32::to_string)
                .collect::<Vec<_>>()
                .join(", ")
        ));
    }
    Ok(doubts)
}

pub(super) fn say(doubts: &[String], path: &Path, slice: Option<usize>) {
    for doubt in doubts {
        tracing::warn!(file = %path.display(), slice, "{doubt}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(data: &[f32], channels: usize) -> Image {
        Image {
            rows: 1,
            cols: data.len() / channels,
            channels,
            data: data.to_vec(),
        }
    }

    #[test]
    fn what_is_not_finite_is_set_to_the_lowest_value_and_counted() {
        let mut gaps = image(&[3.0, f32::NAN, -2.0, f32::INFINITY, f32::NEG_INFINITY], 1);
        let doubts = mend(&mut gaps).unwrap();
        assert_eq!(gaps.data, [3.0, -2.0, -2.0, -2.0, -2.0]);
        assert_eq!(
            doubts,
            ["3 of 5 pixels are not finite; they are taken for the lowest value, -2"]
        );
        let error = mend(&mut image(&[f32::NAN; 4], 1)).unwrap_err();
        assert!(
            error.to_string().contains("no pixel is a finite number"),
            "{error}"
        );
    }

    #[test]
    fn one_value_is_doubtful_and_two_are_not() {
        for flat in [
            image(&[7.0; 6], 1),
            image(&[1.0, 2.0, 3.0, 1.0, 2.0, 3.0], 3),
        ] {
            let doubts = mend(&mut flat.clone()).unwrap();
            assert!(
                doubts[0].contains("all pixels have the value"),
                "{doubts:?}"
            );
        }
        let mut good = image(&[1.0, 2.0, 3.0, 1.0, 2.0, 4.0], 3);
        assert!(mend(&mut good).unwrap().is_empty());
    }
}
