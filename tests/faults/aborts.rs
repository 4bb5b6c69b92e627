//! Fault F13: many DICOM peers at once that break off their associations.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use dicom_ul::association::{ClientAssociation, ClientAssociationOptions};
use dicom_ul::pdu::{PDataValue, PDataValueType, Pdu};

use crate::harness::dcmtk;
use crate::harness::process::{self, free_port, wait_for};
use crate::harness::site::Site;

const PEERS: usize = 25;
const ABORTS_PER_PEER: usize = 40;
/// Limit for an answer to C-ECHO on a busy machine, with the start of `echoscu`.
const ECHO_MAX: Duration = Duration::from_secs(1);

/// How long each association is held open.
const HOLD_TIME: Duration = Duration::from_millis(50);

const MR: &str = "1.2.840.10008.5.1.4.1.1.4";
const EXPLICIT: &str = "1.2.840.10008.1.2.1";

/// A thousand of them leave no thread, no open file and no object, and other peers do not wait for them.
#[test]
fn associations_that_break_off_leave_nothing() {
    if !dcmtk::is_installed() {
        return;
    }
    let port = free_port();
    // More than PEERS, because an association counts until shortly after its end.
    let site = Site::new(
        "",
        &(dcmtk::config_section(port) + "associations_max = 60\n"),
    );
    let folder = tempfile::tempdir().unwrap();
    let files = dcmtk::write_patients(folder.path(), 2);
    site.daemon.wait_for_log("ready");
    assert!(dcmtk::storescu(port, &files[..1], &[]));
    site.wait_for_results(1);
    site.daemon.wait_until_published();
    let id = site.daemon.pid();
    let before = (process::n_threads(id), process::n_open_files(id));
    let (mut slowest, mut n_echoes) = (Duration::ZERO, 0);
    thread::scope(|scope| {
        let peer =
            |number| move || (0..ABORTS_PER_PEER).for_each(|round| break_off(port, number + round));
        let peers: Vec<_> = (0..PEERS).map(|n| scope.spawn(peer(n))).collect();
        while peers.iter().any(|peer| !peer.is_finished()) {
            let start = Instant::now();
            let echo = dcmtk::echoscu(port, "CT1");
            assert!(echo.status.success(), "{echo:?}");
            slowest = slowest.max(start.elapsed());
            n_echoes += 1;
        }
    });
    let after = || (process::n_threads(id), process::n_open_files(id));
    wait_for("the end of all associations", || {
        let (threads, files) = after();
        threads <= before.0 && files <= before.1
    });
    eprintln!(
        "{} aborts: {before:?} threads and open files before, {:?} after; the slowest of {n_echoes} \
         echoes after {} ms",
        PEERS * ABORTS_PER_PEER,
        after(),
        slowest.as_millis()
    );
    assert!(slowest < ECHO_MAX, "{slowest:?}");
    assert!(dcmtk::storescu(port, &files[1..], &[]));
    site.assert_published(2, 0);
}

/// Opens an association and breaks it off in one of four ways.
fn break_off(port: u16, way: usize) {
    let mut association = ClientAssociationOptions::new()
        .calling_ae_title("CT1")
        .called_ae_title("BOX")
        .with_presentation_context(MR, vec![EXPLICIT])
        .establish(("127.0.0.1", port))
        .unwrap();
    sleep(HOLD_TIME);
    match way % 4 {
        0 => return association.abort().unwrap(),
        1 => {}
        2 => {
            // A P-DATA-TF that announces ten thousand bytes and ends after three.
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
