//! DCMTK as the scanner and as the PACS: `echoscu`, `storescu` and `storescp`, and the DICOM files that they send.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use phantom::Heart;
use phantom::dicom::Ids;

use crate::harness::process::{Process, wait_for};
use crate::harness::site::mosquitto;

/// Whether DCMTK and mosquitto are installed. Without them the test is skipped with a message, or fails where they are
/// required.
pub(crate) fn is_installed() -> bool {
    let version = |program: &str| {
        let mut command = Command::new(program);
        command.arg("--version").stdout(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let found = version("echoscu") && version("storescu");
    if !found {
        assert!(
            std::env::var_os("SCANSIDE_REQUIRE_PEERS").is_none(),
            "DCMTK is not installed and SCANSIDE_REQUIRE_PEERS is set"
        );
        eprintln!("SKIPPED: DCMTK is not installed; C-STORE was NOT tested with it");
    }
    found && mosquitto().is_some()
}

/// The section of the configuration for a port that accepts images from DCMTK.
pub(crate) fn config_section(port: u16) -> String {
    format!(
        "\n[[dicom]]\nname = \"scanner\"\nport = {port}\nae_title = \"BOX\"\n\
         check_called_ae_title = true\ncalling_ae_titles = [\"CT1\"]\n"
    )
}

/// Sends C-ECHO to a port of this machine, verbosely.
pub(crate) fn echoscu(port: u16, calling_ae_title: &str) -> Output {
    let mut command = Command::new("echoscu");
    command.args(["-v", "-to", "5", "-ta", "20", "-td", "20", "-aec", "BOX"]);
    command.args(["-aet", calling_ae_title, "127.0.0.1", &port.to_string()]);
    command.output().unwrap()
}

/// Sends files by C-STORE; true when each was answered with success.
pub(crate) fn storescu(port: u16, files: &[PathBuf], args: &[&str]) -> bool {
    let mut command = Command::new("storescu");
    command.args(["-q", "-to", "5", "-ta", "20", "-td", "20"]);
    command.args(["-aet", "CT1", "-aec", "BOX"]).args(args);
    command.args(["127.0.0.1", &port.to_string()]).args(files);
    command.output().unwrap().status.success()
}

/// Starts a PACS that stores into `folder`; `tls` are DCMTK's arguments for TLS.
pub(crate) fn start_storescp(port: u16, folder: &Path, tls: &[&str]) -> Process {
    let mut command = Command::new("storescp");
    command
        .args(["-aet", "PACS", "-od"])
        .arg(folder)
        .args(tls)
        .arg(port.to_string());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let pacs = Process(command.spawn().unwrap());
    wait_for("C-ECHO of the PACS", || {
        let mut echo = Command::new("echoscu");
        echo.args(["-to", "2", "-aec", "PACS"]).args(tls);
        echo.args(["127.0.0.1", &port.to_string()]);
        echo.stderr(Stdio::null()).status().unwrap().success()
    });
    pacs
}

/// The DICOM files in a folder of segmentations, of ours or of `storescp`, which names files by modality and UID.
pub(crate) fn segmentations(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_file() && !name.starts_with('.') {
            files.push(path);
        }
    }
    files
}

/// Writes DICOM files of so many patients, one each.
pub(crate) fn write_patients(folder: &Path, count: u32) -> Vec<PathBuf> {
    let write = |number: u32| {
        let phantom = Heart::new(number.into()).slice_sized(1, 3, 0.0, 256);
        let path = folder.join(format!("{number}.dcm"));
        phantom::dicom::write(&path, &phantom, &Ids::new(&phantom, number, 1)).unwrap();
        path
    };
    (0..count).map(write).collect()
}

/// Writes one series: the slices of one patient.
pub(crate) fn write_series(folder: &Path, n_slices: usize) -> Vec<PathBuf> {
    let heart = Heart::new(7);
    let write = |index: usize| {
        let phantom = heart.slice_sized(index, n_slices, 0.0, 128);
        let path = folder.join(format!("{index}.dcm"));
        let ids = Ids::new(&phantom, 1, index as u32 + 1);
        phantom::dicom::write(&path, &phantom, &ids).unwrap();
        path
    };
    (0..n_slices).map(write).collect()
}

/// Series of real scanners where `../shared` has them, and phantoms elsewhere.
pub(crate) fn scanner_files(folder: &Path) -> Vec<PathBuf> {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/dicom_live");
    let mut folders = vec![shared];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            let list = if path.is_dir() {
                &mut folders
            } else {
                &mut files
            };
            list.push(path);
        }
    }
    if files.is_empty() {
        assert!(
            std::env::var_os("SCANSIDE_REQUIRE_SHARED").is_none(),
            "../shared/data/dicom_live is not here and SCANSIDE_REQUIRE_SHARED is set"
        );
        eprintln!("SKIPPED: ../shared is not here; phantoms are sent instead of real series");
        return write_patients(folder, 100);
    }
    // A DICOMDIR lists files and is no object to store.
    files.retain(|file| !file.ends_with("DIRFILE"));
    files.sort();
    files
}
