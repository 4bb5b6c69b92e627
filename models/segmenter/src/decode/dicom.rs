//! DICOM.
