//! A port in this process, and a sender for it.

use std::fs;
use std::net::TcpStream;
use std::thread::JoinHandle;
use std::time::Instant;

use std::net::SocketAddr;

use dicom_ul::association::{ClientAssociation, ClientAssociationOptions, Error};
use dicom_ul::pdu::{PDataValue, PDataValueType, Pdu};

use super::super::*;
use crate::dimse;
use crate::outbox::job::JobNumber;

pub(super) const MR: &str = "1.2.840.10008.5.1.4.1.1.4";
pub(super) const EXPLICIT: &str = "1.2.840.10008.1.2.1";
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Box {
    folder: tempfile::TempDir,
    pub(super) intake: Intake,
    pub(super) address: SocketAddr,
    pub(super) stop: watch::Sender<bool>,
    pub(super) queue: mpsc::Receiver<JobNumber>,
    pub(super) thread: JoinHandle<Result<(), DicomError>>,
}

pub(super) fn open(edit: impl FnOnce(&mut config::Dicom, &mut Intake)) -> Box {
    let folder = tempfile::tempdir().unwrap();
    let mut config: config::Dicom = toml::from_str("name = \"pacs\"").unwrap();
    let (mut intake, queue) = Intake::of(folder.path(), 2);
    edit(&mut config, &mut intake);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let port = Port {
        config,
        listener,
        grace: Duration::from_secs(5),
    };
    let (stop, stopped) = watch::channel(false);
    let given = intake.clone();
    let thread = thread::spawn(move || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build().unwrap();
        runtime.block_on(run(port, given, stopped))
    });
    Box {
        folder,
        intake,
        address,
        stop,
        queue,
        thread,
    }
}

impl Box {
    /// Waits for a place: one is free only a moment after its release.
    pub(super) fn call(&self) -> Scu {
        let mut scu = None;
        wait_for("a free place", || {
            scu = self.titles("CT1", "SCANSIDE").ok();
            scu.is_some()
        });
        Scu(scu.unwrap())
    }

    pub(super) fn titles(
        &self,
        calling: &str,
        called: &str,
    ) -> Result<ClientAssociation<TcpStream>, Error> {
        ClientAssociationOptions::new()
            .calling_ae_title(calling)
            .called_ae_title(called)
            .with_presentation_context(MR, vec![EXPLICIT])
            .with_presentation_context(dimse::VERIFICATION, vec![EXPLICIT])
            .read_timeout(PATIENCE)
            .establish(self.address)
    }

    /// Files below the state directory but the outbox.
    pub(super) fn files(&self) -> Vec<std::path::PathBuf> {
        let mut folders = vec![self.folder.path().join("accepted")];
        let mut files = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let kind = if path.is_dir() {
                    &mut folders
                } else {
                    &mut files
                };
                kind.push(path);
            }
        }
        files
    }

    pub(super) fn pending(&self) -> u64 {
        self.intake.outbox.ledger().unwrap().pending
    }

    /// The end of a clean stop.
    pub(super) fn close(self) {
        self.stop.send(true).unwrap();
        self.thread.join().unwrap().unwrap();
    }
}

pub(super) struct Scu(pub(super) ClientAssociation<TcpStream>);

/// Presentation contexts as they are proposed.
pub(super) const STORE: u8 = 1;
pub(super) const VERIFY: u8 = 3;

fn element(number: u16, value: &[u8]) -> Vec<u8> {
    let padding = value.len() % 2;
    let length = ((value.len() + padding) as u32).to_le_bytes();
    let mut bytes = [&[0, 0], &number.to_le_bytes()[..], &length, value].concat();
    bytes.resize(bytes.len() + padding, 0);
    bytes
}

pub(super) fn request(field: u16, class: &str, instance: &str, has_data_set: bool) -> Vec<u8> {
    let data_set = if has_data_set { 0_u16 } else { 0x0101 };
    let mut command = [
        element(0x0002, class.as_bytes()),
        element(0x0100, &field.to_le_bytes()),
        element(0x0110, &7_u16.to_le_bytes()),
        element(0x0800, &data_set.to_le_bytes()),
    ]
    .concat();
    if !instance.is_empty() {
        command.extend(element(0x1000, instance.as_bytes()));
    }
    let length = (command.len() as u32).to_le_bytes();
    [element(0, &length), command].concat()
}

impl Scu {
    pub(super) fn send(&mut self, id: u8, value_type: PDataValueType, is_last: bool, data: &[u8]) {
        let value = PDataValue {
            presentation_context_id: id,
            value_type,
            is_last,
            data: data.to_vec(),
        };
        self.0.send(&Pdu::PData { data: vec![value] }).unwrap();
    }

    pub(super) fn command(&mut self, id: u8, bytes: &[u8]) {
        self.send(id, PDataValueType::Command, true, bytes);
    }

    pub(super) fn data(&mut self, bytes: &[u8], is_last: bool) {
        let mut chunks = bytes.chunks(16_000).peekable();
        while let Some(chunk) = chunks.next() {
            let last = is_last && chunks.peek().is_none();
            self.send(STORE, PDataValueType::Data, last, chunk);
        }
    }

    pub(super) fn status(&mut self) -> u16 {
        let Pdu::PData { data } = self.0.receive().unwrap() else {
            panic!("no answer");
        };
        let answer = &data[0].data;
        let status = answer
            .windows(8)
            .position(|bytes| bytes == [0, 0, 0, 9, 2, 0, 0, 0]);
        let at = status.unwrap() + 8;
        u16::from_le_bytes([answer[at], answer[at + 1]])
    }

    pub(super) fn store(&mut self, object: &Object) -> u16 {
        self.command(STORE, &request(dimse::C_STORE, MR, &object.instance, true));
        self.data(&object.data_set, true);
        self.status()
    }
}

pub(super) struct Object {
    pub(super) instance: String,
    pub(super) data_set: Vec<u8>,
}

pub(super) fn object(number: u32) -> Object {
    let phantom = phantom::Heart::new(number.into()).slice_sized(0, 3, 0.0, 96);
    let ids = phantom::dicom::Ids::new(&phantom, 1, number);
    let file = phantom::dicom::to_bytes(&phantom, &ids).unwrap();
    // Preamble, magic and the element with the length of the rest of the group.
    let length = u32::from_le_bytes(file[140..144].try_into().unwrap()) as usize;
    Object {
        instance: ids.sop_instance_uid,
        data_set: file[144 + length..].to_vec(),
    }
}

pub(super) fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what} did not happen");
        thread::sleep(Duration::from_millis(10));
    }
}
