//! What a peer of the C-STORE port may send: PDUs, commands, beginnings of data sets.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| daemon::intake::dicom::read_anything(bytes));
