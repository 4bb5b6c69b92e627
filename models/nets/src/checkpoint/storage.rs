//! Elements of a tensor out of the bytes that it lies in.

use std::borrow::Cow;

use super::torch::View;

impl View {
    /// Elements, or nothing where no memory holds so many.
    pub(super) fn n_elements(&self) -> Option<usize> {
        self.size
            .iter()
            .try_fold(1_usize, |n, &size| n.checked_mul(size))
    }

    /// Elements that the storage has to have.
    fn reach(&self) -> Option<usize> {
        if self.size.contains(&0) {
            return Some(0);
        }
        let strides = self.size.iter().zip(&self.stride);
        let last = strides
            .map(|(&size, &stride)| (size - 1).checked_mul(stride))
            .try_fold(self.offset, |sum, steps| sum.checked_add(steps?))?;
        last.checked_add(1)
    }

    fn is_contiguous(&self) -> bool {
        let mut step = 1;
        self.size
            .iter()
            .zip(&self.stride)
            .rev()
            .all(|(&size, &stride)| {
                let fits = size == 1 || stride == step;
                step *= size;
                fits
            })
    }

    /// The bytes of the elements, one row after the other; nothing where some lie beyond the storage. The caller has
    /// made sure that they fit into memory.
    pub(super) fn gather<'a>(&self, storage: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        let width = self.dtype.size_in_bytes();
        if self.reach()?.checked_mul(width)? > storage.len() {
            return None;
        }
        let n = self.n_elements()?;
        if n == 0 || self.is_contiguous() {
            let start = if n == 0 { 0 } else { self.offset * width };
            return Some(Cow::Borrowed(&storage[start..start + n * width]));
        }
        let mut bytes = Vec::with_capacity(n * width);
        // Not 0-D, which is contiguous.
        let inner = self.size.len() - 1;
        let mut index = vec![0; inner];
        while bytes.len() < n * width {
            let row: usize = index.iter().zip(&self.stride).map(|(i, s)| i * s).sum();
            for column in 0..self.size[inner] {
                let at = (self.offset + row + column * self.stride[inner]) * width;
                bytes.extend_from_slice(&storage[at..at + width]);
            }
            for (i, &size) in index.iter_mut().zip(&self.size).rev() {
                *i += 1;
                if *i < size {
                    break;
                }
                *i = 0;
            }
        }
        Some(Cow::Owned(bytes))
    }
}
