//! Rows of a table by number, the same numbers every time.

use candle_core::{Device, Result, Tensor};

/// Which row of a table each row of the result is.
pub struct Lookup(Rows);

enum Rows {
    /// (n)
    Numbers(Tensor),
    /// (n, table's rows), one 1 in each row. On a GPU, where candle's gradient of a selection is nearly serial: a
    /// thread for each value of a row, which visits all `n`.
    OneHot(Tensor),
}

impl Lookup {
    /// `numbers` are below `n_rows`, the number of rows of the tables.
    pub fn new(numbers: &[u32], n_rows: usize, device: &Device) -> Result<Self> {
        if device.is_cpu() {
            return Ok(Self(Rows::Numbers(Tensor::new(numbers, device)?)));
        }
        Self::one_hot(numbers, n_rows, device)
    }

    pub(super) fn one_hot(numbers: &[u32], n_rows: usize, device: &Device) -> Result<Self> {
        let mut matrix = vec![0f32; numbers.len() * n_rows];
        for (row, &number) in matrix.chunks_exact_mut(n_rows).zip(numbers) {
            row[number as usize] = 1.0;
        }
        let shape = (numbers.len(), n_rows);
        Ok(Self(Rows::OneHot(Tensor::from_vec(matrix, shape, device)?)))
    }

    /// From a table (rows, width) in f32: (n, width).
    pub fn rows(&self, table: &Tensor) -> Result<Tensor> {
        match &self.0 {
            Rows::Numbers(numbers) => table.index_select(numbers, 0),
            Rows::OneHot(one_hot) => one_hot.matmul(table),
        }
    }

    /// From a table (height, columns) in f32, by column: (height, n).
    pub fn columns(&self, table: &Tensor) -> Result<Tensor> {
        match &self.0 {
            Rows::Numbers(numbers) => table.index_select(numbers, 1),
            Rows::OneHot(one_hot) => super::linear(table, one_hot, None),
        }
    }
}
