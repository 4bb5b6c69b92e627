//! The volumes of a series: cine phases, b-values, echoes, dynamics, the planes of a localizer.
//!
//! Readers lay the frames of a segmentation on one grid, so no place may come twice in it: the last
//! frame there would win. Frames of one orientation and pixel spacing belong together; where places
//! repeat among them, the attribute that tells the repeats apart splits them, else their order does.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use super::slice::Slice;
use super::space::{SAME_PLACE_MM, Space};
use crate::decode::acquisition::{TRIGGER_TIME, keywords};

/// Frames of a series that make one segmentation.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Object and frame, both from 0.
    pub frames: Vec<(usize, usize)>,
    /// Keywords of the attributes that set it apart from the other parts, with its values.
    pub by: Vec<(String, String)>,
    /// No attribute tells its frames from those of another part, only their order.
    pub by_order: bool,
}

/// What splits a series besides the attributes of its images.
const IN_PLANE: &str = "PositionInPlane";
const OBJECT: &str = "SOPInstance";
const ORDER: &str = "Order";

/// Mean share of the places that a part covers, beyond which its attribute is one of volumes: it
/// is no attribute of slices, such as a time of day.
const COVERED: f64 = 0.6;

#[derive(Debug, Clone)]
struct Frame<'a> {
    of: (usize, usize),
    slice: &'a Slice,
    space: Space,
    /// Numbers the places of its group.
    place: usize,
    /// Numbers what lies side by side in one place.
    in_plane: usize,
}

/// Every frame is in one part. Images that do not say where they lie are one part.
pub fn parts(slices: &[Slice]) -> Vec<Part> {
    let numbers = |(index, slice): (usize, &Slice)| (0..slice.frames).map(move |f| (index, f));
    let all: Vec<(usize, usize)> = slices.iter().enumerate().flat_map(numbers).collect();
    let frame = |&of: &(usize, usize)| {
        Some(Frame {
            of,
            slice: &slices[of.0],
            space: Space::of(slices, of)?,
            place: 0,
            in_plane: 0,
        })
    };
    let Some(mut frames) = all.iter().map(frame).collect::<Option<Vec<Frame>>>() else {
        return vec![Part {
            frames: all,
            by: Vec::new(),
            by_order: false,
        }];
    };
    frames.sort_by(order);
    let groups = parallel(frames);
    let mut parts = Vec::new();
    let n_groups = groups.len();
    for (number, mut group) in (1..).zip(groups) {
        number_places(&mut group);
        let by = match n_groups {
            1 => Vec::new(),
            n => vec![("Stack".to_owned(), format!("{number} of {n}"))],
        };
        divide(&group, by, &mut parts);
    }
    parts
}

/// Frames of one orientation and pixel spacing.
fn parallel(frames: Vec<Frame>) -> Vec<Vec<Frame>> {
    let mut groups: Vec<Vec<Frame>> = Vec::new();
    for frame in frames {
        let group = groups
            .iter_mut()
            .find(|group| group[0].space.is_parallel(&frame.space));
        match group {
            Some(group) => group.push(frame),
            None => groups.push(vec![frame]),
        }
    }
    groups
}

/// A place is a distance along the normal.
fn number_places(frames: &mut [Frame]) {
    let normal = frames[0].space.clone();
    let mut by_distance: Vec<(f64, usize)> = (0..)
        .zip(frames.iter())
        .map(|(index, frame)| (normal.distance_to(&frame.space), index))
        .collect();
    by_distance.sort_by(|a, b| a.0.total_cmp(&b.0));
    let tolerance = SAME_PLACE_MM.min(normal.pixel_mm() / 10.0);
    let same = |a: &(f64, usize), b: &(f64, usize)| b.0 - a.0 < tolerance;
    for (place, here) in by_distance.chunk_by(same).enumerate() {
        for (_, index) in here {
            frames[*index].place = place;
        }
    }
    let near = normal.pixel_mm() / 2.0;
    let mut seen: Vec<[f64; 2]> = Vec::new();
    for frame in frames.iter_mut() {
        let [x, y] = normal.in_plane(&frame.space);
        let is_here = |[a, b]: &[f64; 2]| (a - x).abs() < near && (b - y).abs() < near;
        frame.in_plane = seen.iter().position(is_here).unwrap_or_else(|| {
            seen.push([x, y]);
            seen.len() - 1
        });
    }
}

fn divide(frames: &[Frame], by: Vec<(String, String)>, parts: &mut Vec<Part>) {
    if most_in_a_place(frames) == 1 {
        parts.push(Part {
            frames: frames.iter().map(|frame| frame.of).collect(),
            by,
            by_order: false,
        });
        return;
    }
    if let Some((keyword, split)) = attribute(frames) {
        let n = split.len();
        for (number, (value, part)) in (1..).zip(split) {
            // These have no value that says anything; a UID says too much.
            let is_bare = keyword == IN_PLANE || keyword == OBJECT;
            let value = if is_bare {
                format!("{number} of {n}")
            } else {
                value
            };
            let also = (keyword.to_owned(), value);
            divide(&part, [&*by, &[also]].concat(), parts);
        }
        return;
    }
    let n = most_in_a_place(frames);
    let mut seen: BTreeMap<usize, usize> = BTreeMap::new();
    let mut volumes: Vec<Vec<(usize, usize)>> = vec![Vec::new(); n];
    for frame in frames {
        let repeat = seen.entry(frame.place).or_default();
        volumes[*repeat].push(frame.of);
        *repeat += 1;
    }
    for (number, frames) in (1..).zip(volumes) {
        let also = (ORDER.to_owned(), format!("{number} of {n}"));
        parts.push(Part {
            frames,
            by: [&*by, &[also]].concat(),
            by_order: true,
        });
    }
}

type Split<'a> = Vec<(String, Vec<Frame<'a>>)>;

/// The first attribute that leaves no place twice in a part, else the first one that helps.
fn attribute<'a>(frames: &[Frame<'a>]) -> Option<(&'static str, Split<'a>)> {
    let most = most_in_a_place(frames);
    let n_places = count_places(frames).len() as f64;
    let names = [IN_PLANE].into_iter().chain(keywords()).chain([OBJECT]);
    let mut helps = None;
    for name in names {
        let split = split(frames, name);
        if split.len() < 2 || !tells_apart(frames, name) {
            continue;
        }
        let covered = frames.len() as f64 / split.len() as f64 / n_places;
        if split.len() > most && covered < COVERED {
            continue;
        }
        if split.iter().all(|(_, part)| most_in_a_place(part) == 1) {
            return Some((name, split));
        }
        helps.get_or_insert((name, split));
    }
    helps
}

/// In every place that repeats.
fn tells_apart(frames: &[Frame], name: &str) -> bool {
    let mut values: BTreeMap<usize, (usize, BTreeSet<String>)> = BTreeMap::new();
    for frame in frames {
        let (count, here) = values.entry(frame.place).or_default();
        *count += 1;
        here.insert(value(frame, name));
    }
    let mut repeated = values.values().filter(|(count, _)| *count > 1);
    repeated.all(|(_, here)| here.len() > 1)
}

fn split<'a>(frames: &[Frame<'a>], name: &str) -> Split<'a> {
    let mut split: BTreeMap<String, Vec<Frame<'a>>> = BTreeMap::new();
    for frame in frames {
        let part = split.entry(value(frame, name)).or_default();
        part.push(frame.clone());
    }
    let mut split: Split = split.into_iter().collect();
    split.sort_by(|(a, _), (b, _)| numeric(a).total_cmp(&numeric(b)).then(a.cmp(b)));
    split
}

fn value(frame: &Frame, name: &str) -> String {
    match name {
        IN_PLANE => frame.in_plane.to_string(),
        // One object of many frames is a volume, or several.
        OBJECT if frame.slice.source.is_multi_frame => frame.slice.source.sop_instance_uid.clone(),
        OBJECT => String::new(),
        _ => acquired(frame, name).unwrap_or_default().to_owned(),
    }
}

fn acquired<'a>(frame: &Frame<'a>, name: &str) -> Option<&'a str> {
    frame.slice.source.acquisition(frame.of.1)?.value(name)
}

fn numeric(value: &str) -> f64 {
    let first = value.split('\\').next().unwrap_or_default();
    first.parse().unwrap_or(f64::INFINITY)
}

fn count_places(frames: &[Frame]) -> BTreeMap<usize, usize> {
    let mut counts = BTreeMap::new();
    for frame in frames {
        *counts.entry(frame.place).or_default() += 1;
    }
    counts
}

fn most_in_a_place(frames: &[Frame]) -> usize {
    count_places(frames).into_values().max().unwrap_or(1)
}

/// In which frames follow each other in time, as far as they say so.
fn order(a: &Frame, b: &Frame) -> Ordering {
    let trigger = |frame: &Frame| numeric(acquired(frame, TRIGGER_TIME).unwrap_or_default());
    let at = |frame: &Frame| {
        let acquisition = frame.slice.source.acquisition(frame.of.1);
        acquisition.map(|found| found.at.clone())
    };
    let last = |frame: &Frame| {
        let source = &frame.slice.source;
        (
            source.instance_number,
            source.sop_instance_uid.clone(),
            frame.of.1,
        )
    };
    trigger(a)
        .total_cmp(&trigger(b))
        .then_with(|| at(a).cmp(&at(b)))
        .then_with(|| last(a).cmp(&last(b)))
}

#[cfg(test)]
mod tests;
