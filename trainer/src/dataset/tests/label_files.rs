//! Label files that are pictures: palettes, depths, alpha, EXIF, and what is refused.

use super::{by_name, error_of};
use crate::dataset::index::index;
use crate::dataset::label::read_picture;
use crate::dataset::*;

/// A PNG of 2 rows and 3 columns; `palette` makes it an indexed one.
struct Png<'a> {
    color: png::ColorType,
    depth: png::BitDepth,
    palette: Option<&'a [u8]>,
    exif: Option<u8>,
    /// As they lie in the file, row by row.
    bytes: &'a [u8],
}

const PLAIN: Png = Png {
    color: png::ColorType::Grayscale,
    depth: png::BitDepth::Eight,
    palette: None,
    exif: None,
    bytes: &[0, 1, 2, 3, 4, 5],
};

/// EXIF with an orientation alone, as a TIFF file has it.
fn exif(orientation: u8) -> Vec<u8> {
    let mut exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    exif
}

impl Png<'_> {
    fn write(&self, path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut info = png::Info::with_size(3, 2);
        info.color_type = self.color;
        info.bit_depth = self.depth;
        info.palette = self.palette.map(|it| it.to_vec().into());
        info.exif_metadata = self.exif.map(|it| exif(it).into());
        let file = std::fs::File::create(path).unwrap();
        let encoder = png::Encoder::with_info(file, info).unwrap();
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(self.bytes).unwrap();
    }

    fn read(&self) -> Result<LabelMap> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mask.png");
        self.write(&path);
        read_picture(&path)
    }
}

#[test]
fn class_ids_are_the_values_of_the_file() {
    use png::{BitDepth as D, ColorType as C};
    // Black, red, green, blue: none of the colours is a class id.
    let palette = [0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255];
    let grey_palette: Vec<u8> = (0..4).flat_map(|i| [85 * i; 3]).collect();
    let bytes = [0, 1, 2, 3, 2, 1];
    let indexed = |palette| Png {
        color: C::Indexed,
        palette: Some(palette),
        bytes: &bytes,
        ..PLAIN
    };
    let cases = [
        (PLAIN, [0, 1, 2, 3, 4, 5]),
        (indexed(&palette), bytes),
        (indexed(&grey_palette), bytes),
        (
            Png {
                depth: D::Two,
                bytes: &[0b0001_1000, 0b1110_0100],
                ..indexed(&palette)
            },
            [0, 1, 2, 3, 2, 1],
        ),
        (
            Png {
                depth: D::One,
                bytes: &[0b0110_0000, 0b1010_0000],
                ..PLAIN
            },
            [0, 255, 255, 255, 0, 255],
        ),
        (
            Png {
                depth: D::Sixteen,
                bytes: &[0, 0, 0, 1, 0, 2, 0, 3, 0, 4, 0, 255],
                ..PLAIN
            },
            [0, 1, 2, 3, 4, 255],
        ),
        (
            Png {
                color: C::Rgb,
                bytes: &[0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5],
                ..PLAIN
            },
            [0, 1, 2, 3, 4, 5],
        ),
        (
            Png {
                color: C::GrayscaleAlpha,
                bytes: &[0, 0, 1, 255, 2, 255, 0, 0, 4, 128, 5, 255],
                ..PLAIN
            },
            [0, 1, 2, 0, 4, 5],
        ),
    ];
    for (file, wanted) in cases {
        let labels = file.read().unwrap();
        assert_eq!((labels.rows, labels.cols), (2, 3));
        assert_eq!(labels.data, wanted, "{:?} {:?}", file.color, file.depth);
    }
}

#[test]
fn values_that_are_no_class_ids_are_refused() {
    use png::{BitDepth as D, ColorType as C};
    let cases = [
        (
            "grey value 256",
            Png {
                depth: D::Sixteen,
                bytes: &[0, 0, 1, 0, 0, 2, 0, 3, 0, 4, 0, 5],
                ..PLAIN
            },
        ),
        (
            "the colour [255, 0, 0]",
            Png {
                color: C::Rgb,
                bytes: &[0, 0, 0, 255, 0, 0, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5],
                ..PLAIN
            },
        ),
        (
            "grey value 7 is transparent",
            Png {
                color: C::GrayscaleAlpha,
                bytes: &[0, 0, 7, 0, 2, 255, 0, 0, 4, 255, 5, 255],
                ..PLAIN
            },
        ),
    ];
    for (words, file) in cases {
        let said = error_of(file.read());
        assert!(
            said.contains(words) && said.contains("mask.png"),
            "no {words:?} in {said}"
        );
    }
}

#[test]
fn jpeg_and_other_formats_are_refused_whatever_their_name_says() {
    let folder = tempfile::tempdir().unwrap();
    for n in 1..=2 {
        Png { ..PLAIN }.write(&folder.path().join(format!("images/p{n}.png")));
    }
    let labels = folder.path().join("labels");
    std::fs::create_dir(&labels).unwrap();
    Png { ..PLAIN }.write(&labels.join("p1.png"));
    let data = [0, 255, 255, 0, 0, 255];
    for name in ["p2.jpg", "p2.png"] {
        let path = labels.join(name);
        let mut bytes = std::io::Cursor::new(Vec::new());
        let (grey, jpeg) = (image::ColorType::L8, image::ImageFormat::Jpeg);
        image::write_buffer_with_format(&mut bytes, &data, 3, 2, grey, jpeg).unwrap();
        std::fs::write(&path, bytes.into_inner()).unwrap();
        let said = error_of(index(folder.path(), &by_name(&[], &[], &[])));
        assert!(
            said.contains("this is JPEG") && said.contains(name),
            "{said}"
        );
        let list = folder.path().join("list.csv");
        let row = format!("images/p2.png,labels/{name},p2,train\n");
        std::fs::write(&list, format!("image,labels,patient,split\n{row}")).unwrap();
        let said = error_of(Dataset::read(&list));
        assert!(
            said.contains("this is JPEG") && said.contains(name),
            "{said}"
        );
        std::fs::remove_file(&path).unwrap();
    }
    std::fs::write(labels.join("p2.png"), "no picture").unwrap();
    let said = error_of(index(folder.path(), &by_name(&[], &[], &[])));
    assert!(
        said.contains("this is no PNG") && said.contains("p2.png"),
        "{said}"
    );
}

#[test]
fn tiff_labels_are_read_exactly_or_refused() {
    use tiff::encoder::colortype::{Gray8, Gray16, Gray32Float, RGB8};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mask.tif");
    let read = |write: &dyn Fn(&mut tiff::encoder::TiffEncoder<std::fs::File>)| {
        let file = std::fs::File::create(&path).unwrap();
        write(&mut tiff::encoder::TiffEncoder::new(file).unwrap());
        read_picture(&path)
    };
    let grey = read(&|it| {
        it.write_image::<Gray8>(3, 2, &[0, 1, 2, 3, 4, 255])
            .unwrap();
    });
    assert_eq!(grey.unwrap().data, [0, 1, 2, 3, 4, 255]);
    let wide = read(&|it| {
        it.write_image::<Gray16>(3, 2, &[0, 1, 2, 3, 4, 255])
            .unwrap();
    });
    assert_eq!(wide.unwrap().data, [0, 1, 2, 3, 4, 255]);
    let said = [
        read(&|it| {
            it.write_image::<Gray16>(3, 2, &[0, 1, 2, 3, 4, 256])
                .unwrap();
        }),
        read(&|it| {
            it.write_image::<Gray32Float>(3, 2, &[0.0, 1.5, 2.0, 3.0, 4.0, 5.0])
                .unwrap();
        }),
        read(&|it| it.write_image::<RGB8>(2, 1, &[1, 1, 1, 255, 0, 0]).unwrap()),
    ];
    for (said, words) in said
        .into_iter()
        .map(error_of)
        .zip(["256", "1.5", "255.0, 0.0"])
    {
        assert!(
            said.contains(words) && said.contains("no class id"),
            "{said}"
        );
        assert!(said.contains("mask.tif"), "{said}");
    }
    let said = error_of(read(&|it| {
        let mut image = it.new_image::<Gray8>(3, 2).unwrap();
        // The tag alone: what the pixels would say is of no interest.
        image
            .encoder()
            .write_tag(tiff::tags::Tag::Compression, 7_u16)
            .unwrap();
        image.write_data(&[0, 1, 2, 3, 4, 5]).unwrap();
    }));
    assert!(said.contains("compressed as a photograph"), "{said}");
}

#[test]
fn exif_turns_image_and_labels_alike_and_changes_the_fingerprint() {
    let load = |image_exif: Option<u8>, labels_exif: Option<u8>| {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, exif| Png { exif, ..PLAIN }.write(&folder.path().join(name));
        write("images/p.png", image_exif);
        write("labels/p.png", labels_exif);
        let dataset = index(folder.path(), &by_name(&[], &[], &[]))?;
        let sample = dataset.load(&dataset.entries[0], &LabelRule::Classes { n: 5 })?;
        Ok((sample, dataset.fingerprint))
    };
    let (plain, fingerprint) = load(None, None).unwrap();
    // Orientation 6: a quarter to the right.
    let (turned, other) = load(Some(6), Some(6)).unwrap();
    assert_eq!((turned.image.rows, turned.image.cols), (3, 2));
    assert_eq!(turned.labels.data, [3, 0, 4, 1, 5, 2]);
    assert_eq!(turned.image.data, [3.0, 0.0, 4.0, 1.0, 5.0, 2.0]);
    assert_ne!(fingerprint, other);
    let (half, _) = load(Some(3), None).unwrap();
    assert_eq!(half.labels.data, plain.labels.data);
    assert_eq!(half.image.data, [5.0, 4.0, 3.0, 2.0, 1.0, 0.0]);
    let said = error_of(load(Some(6), None));
    assert!(
        said.contains("3 x 2 px") && said.contains("2 x 3 px"),
        "{said}"
    );
}

#[test]
fn a_flat_image_is_loaded_and_a_tiff_without_numbers_is_not() {
    let folder = tempfile::tempdir().unwrap();
    Png { ..PLAIN }.write(&folder.path().join("labels/p.png"));
    let image = folder.path().join("images/p.tif");
    std::fs::create_dir(image.parent().unwrap()).unwrap();
    let write = |data: &[f32]| {
        let mut file = std::fs::File::create(&image).unwrap();
        let mut encoder = tiff::encoder::TiffEncoder::new(&mut file).unwrap();
        encoder
            .write_image::<tiff::encoder::colortype::Gray32Float>(3, 2, data)
            .unwrap();
    };
    write(&[f32::NAN; 6]);
    let said = error_of(index(folder.path(), &by_name(&[], &[], &[])));
    assert!(
        said.contains("no pixel is a finite number") && said.contains("p.tif"),
        "{said}"
    );
    write(&[1.0, f32::NAN, 2.0, f32::INFINITY, -3.0, 4.0]);
    let dataset = index(folder.path(), &by_name(&[], &[], &[])).unwrap();
    let sample = dataset
        .load(&dataset.entries[0], &LabelRule::Combine)
        .unwrap();
    assert_eq!(sample.image.data, [1.0, -3.0, 2.0, -3.0, -3.0, 4.0]);
}
