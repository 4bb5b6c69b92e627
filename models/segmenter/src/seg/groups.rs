//! Which frame is which: dimensions, functional groups, references (PS3.3 C.7.6.16 and C.7.6.17).

use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::tags;

use super::about::About;
use super::element::{Object, code, decimal, number, put_items, text};
use super::slice::{Found, Slice};
use super::stack::{Place, grid_step};
use crate::decode::source::Plane;

/// A frame of the segmentation.
pub(super) struct Frame<'a> {
    /// From 1.
    pub(super) segment: u16,
    pub(super) place: &'a Place,
    /// Nothing else is in it.
    pub(super) found: Option<&'a Found>,
}

/// By what frames are told apart, besides their segment.
pub(super) struct Dimensions {
    /// Images without planes have a label instead.
    pub(super) by_position: bool,
}

impl Dimensions {
    pub(super) fn put(&self, object: &mut Object, about: &About) {
        let uid = &about.dimension_organization_uid;
        let mut organization = Object::new_empty();
        text(
            &mut organization,
            tags::DIMENSION_ORGANIZATION_UID,
            VR::UI,
            uid,
        );
        put_items(
            object,
            tags::DIMENSION_ORGANIZATION_SEQUENCE,
            [organization],
        );
        let index = |pointer: Tag, group: Tag, label: &str| {
            let mut item = Object::new_empty();
            text(&mut item, tags::DIMENSION_ORGANIZATION_UID, VR::UI, uid);
            let tag = |item: &mut Object, tag: Tag, value: Tag| {
                let value = PrimitiveValue::Tags([value].as_slice().into());
                item.put(DataElement::new(tag, VR::AT, value));
            };
            tag(&mut item, tags::DIMENSION_INDEX_POINTER, pointer);
            tag(&mut item, tags::FUNCTIONAL_GROUP_POINTER, group);
            text(&mut item, tags::DIMENSION_DESCRIPTION_LABEL, VR::LO, label);
            item
        };
        let mut indices = vec![index(
            tags::REFERENCED_SEGMENT_NUMBER,
            tags::SEGMENT_IDENTIFICATION_SEQUENCE,
            "Segment",
        )];
        if self.by_position {
            let group = tags::PLANE_POSITION_SEQUENCE;
            indices.push(index(tags::IMAGE_POSITION_PATIENT, group, "Position"));
        } else {
            let group = tags::FRAME_CONTENT_SEQUENCE;
            indices.push(index(tags::FRAME_LABEL, group, "Image"));
        }
        put_items(object, tags::DIMENSION_INDEX_SEQUENCE, indices);
    }

    fn values(&self, frame: &Frame) -> Vec<u32> {
        let Place {
            position, repeat, ..
        } = frame.place;
        let second = if self.by_position { position } else { repeat };
        vec![frame.segment.into(), *second]
    }
}

/// What all frames have in common, and what each has of its own.
pub(super) struct Layout<'a> {
    slices: &'a [Slice],
    /// Orientation and measures that hold for all.
    common: Option<&'a Plane>,
    has_planes: bool,
    distance: Option<f64>,
}

impl<'a> Layout<'a> {
    pub(super) fn of(slices: &'a [Slice], places: &[Place], has_planes: bool) -> Self {
        let planes = || {
            let plane = |place: &Place| slices[place.slice].source.planes.get(place.frame);
            places.iter().filter_map(plane)
        };
        let common = planes().next().filter(|first| {
            planes().all(|plane| {
                (&plane.orientation, &plane.spacing, &plane.thickness)
                    == (&first.orientation, &first.spacing, &first.thickness)
            })
        });
        Self {
            slices,
            common: common.filter(|_| has_planes),
            has_planes,
            distance: grid_step(slices, places),
        }
    }

    pub(super) fn shared(&self) -> Object {
        let mut group = Object::new_empty();
        if let Some(plane) = self.common {
            self.orientation_and_measures(&mut group, plane);
        }
        group
    }

    fn orientation_and_measures(&self, group: &mut Object, plane: &Plane) {
        let mut orientation = Object::new_empty();
        text(
            &mut orientation,
            tags::IMAGE_ORIENTATION_PATIENT,
            VR::DS,
            &plane.orientation,
        );
        put_items(group, tags::PLANE_ORIENTATION_SEQUENCE, [orientation]);
        let mut measures = Object::new_empty();
        text(&mut measures, tags::PIXEL_SPACING, VR::DS, &plane.spacing);
        // Required, and unknown only where a slice says nothing: then the stack tells.
        let distance = self.distance.map(decimal);
        if let Some(thickness) = plane.thickness.as_ref().or(distance.as_ref()) {
            text(&mut measures, tags::SLICE_THICKNESS, VR::DS, thickness);
        }
        if let Some(distance) = &distance {
            text(
                &mut measures,
                tags::SPACING_BETWEEN_SLICES,
                VR::DS,
                distance,
            );
        }
        put_items(group, tags::PIXEL_MEASURES_SEQUENCE, [measures]);
    }

    pub(super) fn group(&self, frame: &Frame, dimensions: &Dimensions) -> Object {
        let slice = &self.slices[frame.place.slice];
        let mut group = Object::new_empty();
        let mut content = Object::new_empty();
        let values = PrimitiveValue::U32(dimensions.values(frame).into());
        let tag = tags::DIMENSION_INDEX_VALUES;
        content.put(DataElement::new(tag, VR::UL, values));
        if !dimensions.by_position {
            let label = frame.place.repeat.to_string();
            text(&mut content, tags::FRAME_LABEL, VR::LO, &label);
        }
        put_items(&mut group, tags::FRAME_CONTENT_SEQUENCE, [content]);
        let mut identification = Object::new_empty();
        number(
            &mut identification,
            tags::REFERENCED_SEGMENT_NUMBER,
            frame.segment,
        );
        put_items(
            &mut group,
            tags::SEGMENT_IDENTIFICATION_SEQUENCE,
            [identification],
        );
        put_items(
            &mut group,
            tags::DERIVATION_IMAGE_SEQUENCE,
            [derivation(slice, frame.place)],
        );
        if let (true, Some(plane)) = (self.has_planes, slice.source.planes.get(frame.place.frame)) {
            let mut position = Object::new_empty();
            text(
                &mut position,
                tags::IMAGE_POSITION_PATIENT,
                VR::DS,
                &plane.position,
            );
            put_items(&mut group, tags::PLANE_POSITION_SEQUENCE, [position]);
            if self.common.is_none() {
                self.orientation_and_measures(&mut group, plane);
            }
        }
        group
    }
}

fn derivation(slice: &Slice, place: &Place) -> Object {
    let mut source = reference(slice);
    if slice.source.is_multi_frame {
        let frame = (place.frame + 1).to_string();
        text(&mut source, tags::REFERENCED_FRAME_NUMBER, VR::IS, &frame);
    }
    text(
        &mut source,
        tags::SPATIAL_LOCATIONS_PRESERVED,
        VR::CS,
        "YES",
    );
    let purpose = "Source image for image processing operation";
    let purpose = code("121322", "DCM", purpose);
    put_items(
        &mut source,
        tags::PURPOSE_OF_REFERENCE_CODE_SEQUENCE,
        [purpose],
    );
    let mut item = Object::new_empty();
    put_items(&mut item, tags::SOURCE_IMAGE_SEQUENCE, [source]);
    let segmentation = code("113076", "DCM", "Segmentation");
    put_items(&mut item, tags::DERIVATION_CODE_SEQUENCE, [segmentation]);
    item
}

pub(super) fn reference(slice: &Slice) -> Object {
    let mut item = Object::new_empty();
    let source = &slice.source;
    text(
        &mut item,
        tags::REFERENCED_SOP_CLASS_UID,
        VR::UI,
        &source.sop_class_uid,
    );
    text(
        &mut item,
        tags::REFERENCED_SOP_INSTANCE_UID,
        VR::UI,
        &source.sop_instance_uid,
    );
    item
}
