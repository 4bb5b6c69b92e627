//! Prompts derived from a mask, as the reference draws them (boxes, interior points).

use crate::mask::LabelMap;

/// Corners in px, both inclusive: x0, y0, x1, y1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoxPrompt {
    pub x0: f32,
    pub y0: f32,
    pub x1: f32,
    pub y1: f32,
}

/// The tight box around all foreground pixels, `margin` px wider on each side and clipped to the
/// image; `None` when there is no foreground.
pub fn tight_box(labels: &LabelMap, margin: f32) -> Option<BoxPrompt> {
    let mut found: Option<[usize; 4]> = None;
    for (at, _) in labels
        .data
        .iter()
        .enumerate()
        .filter(|&(_, &label)| label != 0)
    {
        let (x, y) = (at % labels.cols, at / labels.cols);
        let [x0, y0, x1, _] = found.unwrap_or([x, y, x, y]);
        found = Some([x0.min(x), y0, x1.max(x), y]);
    }
    let margin = margin.max(0.0);
    let [right, bottom] = [labels.cols, labels.rows].map(|side| side.saturating_sub(1) as f32);
    found.map(|[x0, y0, x1, y1]| BoxPrompt {
        x0: (x0 as f32 - margin).max(0.0),
        y0: (y0 as f32 - margin).max(0.0),
        x1: (x1 as f32 + margin).min(right),
        y1: (y1 as f32 + margin).min(bottom),
    })
}

/// Boxes around the largest components and the mask of just those components.
#[derive(Debug, Clone, PartialEq)]
pub struct TopBoxes {
    /// Exactly as many as asked for: the last one is repeated; all corners 0 for an empty mask.
    pub boxes: Vec<BoxPrompt>,
    /// 1 inside the chosen components, 0 elsewhere.
    pub kept: LabelMap,
}

/// The reference's `get_top_boxes` without its random jitter: tight boxes of the `count` largest
/// 8-connected components, largest first (the later one of equals first, as there).
pub fn top_boxes(labels: &LabelMap, count: usize) -> TopBoxes {
    let components = components_by_size(labels);
    let mut kept = LabelMap::new(labels.rows, labels.cols);
    let mut boxes = Vec::with_capacity(count);
    for component in components.iter().take(count) {
        let mask = mask_of(component, labels);
        boxes.extend(tight_box(&mask, 0.0));
        for &at in component {
            kept.data[at] = 1;
        }
    }
    let last = boxes.last().copied().unwrap_or(BoxPrompt {
        x0: 0.0,
        y0: 0.0,
        x1: 0.0,
        y1: 0.0,
    });
    boxes.resize(count, last);
    TopBoxes { boxes, kept }
}

/// Where the reference's `get_first_prompt` draws its points: for each of the `count` largest
/// components (largest first) the (x, y) px, in row-major order, that are among the `ratio` (0.1 there)
/// with the largest distance to the background and at least 1 px from it.
///
/// The first and last entry of each list are the draws of the extreme random indices.
pub fn interior_points(labels: &LabelMap, count: usize, ratio: f64) -> Vec<Vec<(usize, usize)>> {
    let candidates = |component: &Vec<usize>| {
        let distance = distance_5x5(&mask_of(component, labels));
        let mut order = distance.clone();
        order.sort_unstable_by(|a, b| b.cmp(a));
        let rank = (ratio.clamp(0.0, 1.0) * component.len() as f64) as usize;
        let threshold = order[rank.min(order.len() - 1)].max(STRAIGHT);
        let inside = distance
            .iter()
            .enumerate()
            .filter(|&(_, &value)| value >= threshold);
        inside
            .map(|(at, _)| (at % labels.cols, at / labels.cols))
            .collect()
    };
    components_by_size(labels)
        .iter()
        .take(count)
        .map(candidates)
        .collect()
}

fn mask_of(component: &[usize], labels: &LabelMap) -> LabelMap {
    let mut mask = LabelMap::new(labels.rows, labels.cols);
    for &at in component {
        mask.data[at] = 1;
    }
    mask
}

/// 8-connected components of the foreground as pixel indices, largest first; of equal ones the one
/// whose first pixel comes later in row-major order first.
fn components_by_size(labels: &LabelMap) -> Vec<Vec<usize>> {
    let (rows, cols) = (labels.rows, labels.cols);
    let mut seen = vec![false; labels.data.len()];
    let mut components: Vec<Vec<usize>> = Vec::new();
    for start in 0..labels.data.len() {
        if seen[start] || labels.data[start] == 0 {
            continue;
        }
        seen[start] = true;
        let mut component = vec![start];
        let mut next = 0;
        while let Some(&at) = component.get(next) {
            next += 1;
            let (x, y) = (at % cols, at / cols);
            for ny in y.saturating_sub(1)..=(y + 1).min(rows - 1) {
                for nx in x.saturating_sub(1)..=(x + 1).min(cols - 1) {
                    let neighbour = ny * cols + nx;
                    if !seen[neighbour] && labels.data[neighbour] != 0 {
                        seen[neighbour] = true;
                        component.push(neighbour);
                    }
                }
            }
        }
        components.push(component);
    }
    components.reverse();
    components.sort_by_key(|component| std::cmp::Reverse(component.len()));
    components
}

/// Lengths of a straight, a diagonal and a knight's step in 1/65536 px (OpenCV's 5x5 L2 mask).
const STRAIGHT: u32 = 65_536;
const DIAGONAL: u32 = 91_750;
const KNIGHT: u32 = 143_976;

/// Steps to pixels already visited in row-major order: dx, dy, length.
const STEPS: [(isize, isize, u32); 8] = [
    (-1, -2, KNIGHT),
    (1, -2, KNIGHT),
    (-2, -1, KNIGHT),
    (-1, -1, DIAGONAL),
    (0, -1, STRAIGHT),
    (1, -1, DIAGONAL),
    (2, -1, KNIGHT),
    (-1, 0, STRAIGHT),
];

/// Approximate distance to the background in 1/65536 px by Borgefors' two passes, as OpenCV's
/// `distanceTransform` with mask size 5; outside the image is background.
fn distance_5x5(mask: &LabelMap) -> Vec<u32> {
    // A ring of one pixel of background, and one beyond that which no path may use.
    const RING: usize = 2;
    const FAR: u32 = u32::MAX / 4;
    let (rows, cols) = (mask.rows + 2 * RING + 2, mask.cols + 2 * RING + 2);
    let mut distance = vec![FAR; rows * cols];
    let inner_rows = RING..rows - RING;
    let inner_cols = RING..cols - RING;
    let foreground = |y: usize, x: usize| {
        let (y, x) = (y.wrapping_sub(RING + 1), x.wrapping_sub(RING + 1));
        y < mask.rows && x < mask.cols && mask.data[y * mask.cols + x] != 0
    };
    let shortest = |distance: &[u32], at: usize, sign: isize| {
        let reach = |&(dx, dy, length): &(isize, isize, u32)| {
            let neighbour = at.wrapping_add_signed(sign * (dy * cols as isize + dx));
            distance[neighbour].saturating_add(length)
        };
        STEPS.iter().map(reach).min().unwrap_or(FAR)
    };
    for y in inner_rows.clone() {
        for x in inner_cols.clone() {
            let at = y * cols + x;
            let found = if foreground(y, x) {
                shortest(&distance, at, 1)
            } else {
                0
            };
            distance[at] = found.min(FAR);
        }
    }
    for y in inner_rows.rev() {
        for x in inner_cols.clone().rev() {
            let at = y * cols + x;
            distance[at] = distance[at].min(shortest(&distance, at, -1));
        }
    }
    let line = |y: usize| (y + RING + 1) * cols + RING + 1;
    (0..mask.rows)
        .flat_map(|y| distance[line(y)..line(y) + mask.cols].to_vec())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[&str]) -> LabelMap {
        let data = lines.concat().bytes().map(|c| c - b'0').collect();
        LabelMap {
            rows: lines.len(),
            cols: lines[0].len(),
            data,
        }
    }

    fn corners(found: &BoxPrompt) -> [f32; 4] {
        [found.x0, found.y0, found.x1, found.y1]
    }

    #[test]
    fn tight_boxes_hold_all_classes_and_stay_inside() {
        let labels = map(&["00000", "01200", "00010", "00000"]);
        let found = |margin| tight_box(&labels, margin).map(|found| corners(&found));
        assert_eq!(found(0.0), Some([1.0, 1.0, 3.0, 2.0]));
        assert_eq!(found(0.5), Some([0.5, 0.5, 3.5, 2.5]));
        assert_eq!(found(9.0), Some([0.0, 0.0, 4.0, 3.0]));
        assert_eq!(tight_box(&map(&["000"]), 1.0), None);
    }

    #[test]
    fn the_largest_components_come_first_and_the_last_is_repeated() {
        let labels = map(&["1000110", "0100110", "0000000", "1011100", "0000000"]);
        let found = top_boxes(&labels, 3);
        let boxes: Vec<_> = found.boxes.iter().map(corners).collect();
        // Diagonal neighbours belong together.
        assert_eq!(
            boxes,
            [
                [4.0, 0.0, 5.0, 1.0],
                [2.0, 3.0, 4.0, 3.0],
                [0.0, 0.0, 1.0, 1.0]
            ]
        );
        assert_eq!(found.kept.area_px(1), 9);
        let five = top_boxes(&labels, 5);
        assert_eq!(five.boxes[3], five.boxes[4]);
        assert_eq!(
            corners(&five.boxes[3]).map(|edge| edge as i32),
            [0, 3, 0, 3]
        );
        let empty = top_boxes(&map(&["00"]), 3);
        assert_eq!(empty.boxes.len(), 3);
        assert!(empty.boxes.iter().flat_map(corners).all(|edge| edge == 0.0));
    }

    #[test]
    fn distances_take_the_shortest_of_three_kinds_of_steps() {
        let distance = distance_5x5(&map(&["11111", "11111", "11111", "11111", "11111"]));
        assert_eq!(distance[..5], [STRAIGHT; 5]);
        assert_eq!(distance[12], 3 * STRAIGHT);
        let corner = distance_5x5(&map(&["1111", "1111", "1110"]));
        assert_eq!(corner[5], 2 * STRAIGHT);
        assert_eq!(corner[6], DIAGONAL);
    }

    #[test]
    fn interior_points_are_the_deepest_tenth() {
        let labels = map(&[
            "1111111", "1111111", "1111111", "1111111", "1111111", "0000000",
        ]);
        assert_eq!(
            interior_points(&labels, 3, 0.08),
            [[(2, 2), (3, 2), (4, 2)]]
        );
        // A tenth of 35 is 3, and the fourth largest distance is 2 px.
        assert_eq!(interior_points(&labels, 3, 0.1)[0].len(), 15);
        assert_eq!(interior_points(&map(&["010"]), 3, 0.1), [[(1, 0)]]);
        assert!(interior_points(&map(&["000"]), 3, 0.1).is_empty());
    }
}
