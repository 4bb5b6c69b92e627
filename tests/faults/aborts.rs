//! F13: peers that break off, many at once.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use dicom_ul::association::{ClientAssociation, ClientAssociationOptions};
use dicom_ul::pdu::{PDataValue, PDataValueType, Pdu};

use crate::site::Site;
use crate::station::{PATIENCE, free_port, wait_for};
use crate::{process, sender};

const AT_ONCE: usize = 25;
const EACH: usize = 40;
/// An answer to C-ECHO, the program's start included; on a busy machine.
const ECHO_MAX: Duration = Duration::from_secs(1);

/// How long each has its place.
const HELD: Duration = Duration::from_millis(50);

const MR: &str = "1.2.840.10008.5.1.4.1.1.4";
const EXPLICIT: &str = "1.2.840.10008.1.2.1";

/// A thousand of them leave no thread, no file and no object, and nobody else waits for them.
#[test]
fn associations_that_break_off_leave_nothing() {
    if !sender::dcmtk() {
        return;
    }
    let port = free_port();
    // A place is free a moment after its association ended.
    let site = Site::new("", &(sender::section(port) + "associations_max = 60\n"));
    let folder = tempfile::tempdir().unwrap();
    let files = sender::phantoms(folder.path(), 2);
    site.station.wait_for_word("ready");
    assert!(sender::deliver(port, &files[..1], &[]));
    site.wait_for_results(1);
    site.station.wait_until_published();
    let id = site.station.daemon_id();
    let before = (process::n_threads(id), process::n_files(id));
    let (mut slowest, mut n_echoes) = (Duration::ZERO, 0);
    thread::scope(|scope| {
        let peer = |number| move || (0..EACH).for_each(|round| break_off(port, number + round));
        let peers: Vec<_> = (0..AT_ONCE).map(|n| scope.spawn(peer(n))).collect();
        while peers.iter().any(|peer| !peer.is_finished()) {
            let start = Instant::now();
            let echo = sender::call("echoscu", port, &["-aet", "CT1"]);
            assert!(echo.status.success(), "{echo:?}");
            slowest = slowest.max(start.elapsed());
            n_echoes += 1;
        }
    });
    let after = || (process::n_threads(id), process::n_files(id));
    wait_for("the end of all associations", PATIENCE, || {
        let (threads, files) = after();
        threads <= before.0 && files <= before.1
    });
    eprintln!(
        "{} aborts: {before:?} threads and open files before, {:?} after; the slowest of {n_echoes} \
         echoes after {} ms",
        AT_ONCE * EACH,
        after(),
        slowest.as_millis()
    );
    assert!(slowest < ECHO_MAX, "{slowest:?}");
    assert!(sender::deliver(port, &files[1..], &[]));
    site.settle(2, 0);
}

/// Each in one of four ways.
fn break_off(port: u16, way: usize) {
    let mut association = ClientAssociationOptions::new()
        .calling_ae_title("CT1")
        .called_ae_title("BOX")
        .with_presentation_context(MR, vec![EXPLICIT])
        .establish(("127.0.0.1", port))
        .unwrap();
    sleep(HELD);
    match way % 4 {
        0 => return association.abort().unwrap(),
        1 => {}
        2 => {
            // Ten thousand bytes are announced.
            let begin = [4, 0, 0, 0, 0x27, 0x10, 0, 0, 0x27];
            association.inner_stream().write_all(&begin).unwrap();
        }
        _ => {
            send(&mut association, PDataValueType::Command, true, &store(way));
            send(&mut association, PDataValueType::Data, false, &[0; 5000]);
        }
    }
    association.inner_stream().shutdown(Shutdown::Both).unwrap();
}

fn send(peer: &mut ClientAssociation<TcpStream>, kind: PDataValueType, last: bool, data: &[u8]) {
    let value = PDataValue {
        presentation_context_id: 1,
        value_type: kind,
        is_last: last,
        data: data.to_vec(),
    };
    peer.send(&Pdu::PData { data: vec![value] }).unwrap();
}

/// A C-STORE-RQ.
fn store(number: usize) -> Vec<u8> {
    let element = |tag: u16, value: &[u8]| {
        let mut value = value.to_vec();
        value.resize(value.len().next_multiple_of(2), 0);
        let length = (value.len() as u32).to_le_bytes();
        [&[0, 0], &tag.to_le_bytes()[..], &length, &value].concat()
    };
    let command = [
        element(0x0002, MR.as_bytes()),
        element(0x0100, &1_u16.to_le_bytes()),
        element(0x0110, &7_u16.to_le_bytes()),
        element(0x0800, &0_u16.to_le_bytes()),
        element(0x1000, format!("2.25.{number}").as_bytes()),
    ]
    .concat();
    let length = (command.len() as u32).to_le_bytes();
    [element(0, &length), command].concat()
}
