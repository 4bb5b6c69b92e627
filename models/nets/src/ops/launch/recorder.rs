//! What the CPU computed where a GPU would have run a kernel, so that a test can compare the two.

use std::cell::RefCell;

use super::Launch;

pub(in crate::ops) struct Record {
    pub(in crate::ops) launch: Launch,
    pub(in crate::ops) inputs: Vec<Vec<f32>>,
    pub(in crate::ops) output: Vec<f32>,
}

thread_local! {
    static RECORDS: RefCell<Option<Vec<Record>>> = const { RefCell::new(None) };
}

/// Everything that operations with a kernel compute while `f` runs, on this thread.
pub(in crate::ops) fn during(f: impl FnOnce()) -> Vec<Record> {
    RECORDS.set(Some(Vec::new()));
    f();
    RECORDS.take().unwrap_or_default()
}

pub(in crate::ops) fn record(launch: Option<&Launch>, inputs: &[&[f32]], output: &[f32]) {
    RECORDS.with_borrow_mut(|records| {
        if let (Some(records), Some(launch)) = (records, launch) {
            records.push(Record {
                launch: launch.clone(),
                inputs: inputs.iter().map(|input| input.to_vec()).collect(),
                output: output.to_vec(),
            });
        }
    });
}
