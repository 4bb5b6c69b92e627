use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use dicom_ul::association::{ClientAssociationOptions, Error};
use dicom_ul::pdu::{
    AssociationRJResult, AssociationRJServiceProviderPresentationReason as Presentation,
    AssociationRJServiceUserReason as User, AssociationRJSource as Source, AssociationRQ,
    PDataValue, PDataValueType, Pdu, PresentationContextProposed,
    PresentationContextResultReason as Reason, RequestorRoles, UserVariableItem,
};
use segmenter::decode::{Limits, decode};

use super::*;
use crate::dimse;
use crate::spool::recover::recover;
use scu::{EXPLICIT, MR, PATIENCE, STORE, VERIFY, object, open, request, wait_for};

mod scu;

#[test]
fn an_echo_is_answered() {
    let a_box = open(|_, _| {});
    let mut scu = a_box.call();
    let echo = request(dimse::C_ECHO, dimse::VERIFICATION, "", false);
    for _ in 0..2 {
        scu.command(VERIFY, &echo);
        assert_eq!(scu.status(), 0);
    }
    scu.0.release().unwrap();
    a_box.close();
}

#[test]
fn success_means_that_file_and_row_are_there() {
    let mut a_box = open(|_, _| {});
    let object = object(1);
    let mut scu = a_box.call();
    assert_eq!(scu.store(&object), 0);
    let files = a_box.files();
    assert_eq!((a_box.pending(), files.len()), (1, 1));
    assert_eq!(a_box.queue.blocking_recv(), Some(1));
    let bytes = fs::read(&files[0]).unwrap();
    let scan = decode(&bytes, &Limits::STANDARD).unwrap();
    assert_eq!(
        scan.identifiers.sop_instance_uid,
        Some(object.instance.clone())
    );
    assert!(bytes.ends_with(&object.data_set));
    let name = files[0].to_str().unwrap();
    assert!(name.contains("/accepted/pacs/") && !name.contains(&object.instance));

    // The same object again is a job of its own, and the same bytes: one job id.
    assert_eq!(scu.store(&object), 0);
    scu.0.release().unwrap();
    let files = a_box.files();
    assert_eq!((a_box.pending(), files.len()), (2, 2));
    assert_eq!(fs::read(&files[0]).unwrap(), fs::read(&files[1]).unwrap());
    // Nobody worked on them before the process ended: the next start finds both.
    let intake = &a_box.intake;
    assert_eq!(recover(&intake.outbox, &intake.spool).unwrap(), [1, 2]);
    a_box.close();
}

#[test]
fn titles_are_checked_where_that_is_asked_for() {
    let a_box = open(|config, _| {
        config.check_called_ae_title = true;
        config.calling_ae_titles = vec!["CT1".into(), "MR 2".into()];
    });
    let rejection = |calling, called| match a_box.titles(calling, called) {
        Err(Error::Rejected { association_rj, .. }) => association_rj,
        other => panic!("{other:?}"),
    };
    for (calling, called, reason) in [
        ("CT1", "OTHER", User::CalledAETitleNotRecognized),
        ("CT", "SCANSIDE", User::CallingAETitleNotRecognized),
    ] {
        let rejected = rejection(calling, called);
        assert_eq!(rejected.result, AssociationRJResult::Permanent);
        assert_eq!(rejected.source, Source::ServiceUser(reason));
    }
    a_box.titles("MR 2", "SCANSIDE").unwrap().release().unwrap();
    a_box.close();
    let open = open(|_, _| {});
    open.titles("ANY", "WHO").unwrap().release().unwrap();
    open.close();
}

#[test]
fn an_association_above_the_limit_is_told_so() {
    let a_box = open(|config, _| config.associations_max = 2);
    let (first, mut second) = (a_box.call(), a_box.call());
    let Err(Error::Rejected { association_rj, .. }) = a_box.titles("CT1", "SCANSIDE") else {
        panic!("a third one got in");
    };
    assert_eq!(association_rj.result, AssociationRJResult::Transient);
    let reason = Source::ServiceProviderPresentation(Presentation::LocalLimitExceeded);
    assert_eq!(association_rj.source, reason);
    // The others do not notice, and a place that is free is given away.
    assert_eq!(second.store(&object(1)), 0);
    first.0.release().unwrap();
    a_box.call();
    a_box.close();
}

#[test]
fn a_sender_that_dies_leaves_nothing() {
    let a_box = open(|_, _| {});
    let object = object(1);
    let mut scu = a_box.call();
    scu.command(STORE, &request(dimse::C_STORE, MR, &object.instance, true));
    scu.data(&object.data_set[..object.data_set.len() / 2], false);
    wait_for("the part", || a_box.files().len() == 1);
    drop(scu);
    wait_for("its removal", || a_box.files().is_empty());
    assert_eq!(a_box.intake.outbox.ledger().unwrap().received, 0);
    assert_eq!(a_box.call().store(&object), 0);
    a_box.close();
}

#[test]
fn two_senders_do_not_wait_for_each_other() {
    let a_box = open(|_, _| {});
    let (slow, fast) = (object(1), object(2));
    let (mut first, mut second) = (a_box.call(), a_box.call());
    let half = slow.data_set.len() / 2;
    first.command(STORE, &request(dimse::C_STORE, MR, &slow.instance, true));
    first.data(&slow.data_set[..half], false);
    assert_eq!(second.store(&fast), 0);
    first.data(&slow.data_set[half..], true);
    assert_eq!(first.status(), 0);
    assert_eq!(a_box.pending(), 2);
    a_box.close();
}

#[test]
fn without_room_or_queue_the_sender_keeps_the_object() {
    let full = open(|_, intake| intake.min_free_bytes = u64::MAX);
    assert_eq!(full.call().store(&object(1)), 0xa700);
    assert!(full.intake.status.reasons().contains(&"disk_low"));
    assert_eq!((full.pending(), full.files().len()), (0, 0));
    full.close();

    let mut busy = open(|_, _| {});
    let mut scu = busy.call();
    let objects = [object(1), object(2), object(3)];
    let answers: Vec<u16> = objects.iter().map(|object| scu.store(object)).collect();
    assert_eq!(answers, [0, 0, 0xa700]);
    assert_eq!(busy.intake.status.metrics.refusals("pacs", "queue_full"), 1);
    assert_eq!((busy.pending(), busy.files().len()), (2, 2));
    busy.queue.blocking_recv().unwrap();
    assert_eq!(scu.store(&objects[2]), 0);
    busy.close();
}

#[test]
fn what_is_refused_has_its_status_and_leaves_nothing() {
    let a_box = open(|config, _| config.object_max_bytes = 30_000);
    let good = object(1);
    let mut scu = a_box.call();
    let mut answer = |class: &str, instance: &str, data_set: &[u8]| {
        scu.command(STORE, &request(dimse::C_STORE, class, instance, true));
        scu.data(data_set, true);
        scu.status()
    };
    let ct = "1.2.840.10008.5.1.4.1.1.2";
    assert_eq!(
        answer(MR, "2.25.99", &good.data_set),
        0xa900,
        "another instance"
    );
    assert_eq!(
        answer(ct, &good.instance, &good.data_set),
        0xa900,
        "another class"
    );
    assert_eq!(answer(MR, &good.instance, b"GIF89a, not DICOM"), 0xc000);
    assert_eq!(answer(MR, &good.instance, &good.data_set[..9]), 0xc000);
    assert_eq!(answer(MR, "../etc/passwd", &good.data_set), 0xc000);
    let large = [good.data_set.clone(), vec![0; 20_000]].concat();
    assert_eq!(answer(MR, &good.instance, &large), 0xa700);
    assert_eq!((a_box.pending(), a_box.files().len()), (0, 0));
    assert_eq!(answer(MR, &good.instance, &good.data_set), 0);
    scu.command(STORE, &request(dimse::C_STORE, MR, &good.instance, false));
    assert_eq!(scu.status(), 0xc000, "a request without data set");
    scu.command(STORE, &request(0x0020, MR, "", true));
    scu.data(b"a query", true);
    assert_eq!(scu.status(), 0x0211, "C-FIND");
    assert_eq!(a_box.pending(), 1);
    a_box.close();
}

#[test]
fn only_images_in_readable_syntaxes_are_negotiated() {
    let a_box = open(|_, _| {});
    let query = "1.2.840.10008.5.1.4.1.2.2.1";
    let (mpeg, jpeg) = ("1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.70");
    let association = ClientAssociationOptions::new()
        .with_presentation_context(query, vec![EXPLICIT])
        .with_presentation_context(MR, vec![mpeg])
        .with_presentation_context(MR, vec![mpeg, jpeg, EXPLICIT])
        .establish(a_box.address)
        .unwrap();
    let accepted: Vec<_> = association
        .presentation_contexts()
        .iter()
        .filter(|context| context.reason == Reason::Acceptance)
        .map(|context| (context.id, context.transfer_syntax.as_str()))
        .collect();
    assert_eq!(accepted, [(5, jpeg)]);
    association.release().unwrap();
    a_box.close();
}

#[test]
fn a_stop_waits_for_an_object_and_for_nothing_else() {
    let a_box = open(|_, _| {});
    let object = object(1);
    let (mut storing, mut idle) = (a_box.call(), a_box.call());
    let half = object.data_set.len() / 2;
    storing.command(STORE, &request(dimse::C_STORE, MR, &object.instance, true));
    storing.data(&object.data_set[..half], false);
    wait_for("the part", || a_box.files().len() == 1);
    a_box.stop.send(true).unwrap();
    assert!(matches!(idle.0.receive(), Ok(Pdu::AbortRQ { .. })));
    storing.data(&object.data_set[half..], true);
    assert_eq!(storing.status(), 0);
    assert!(matches!(storing.0.receive(), Ok(Pdu::AbortRQ { .. })));
    assert_eq!(a_box.pending(), 1);
    wait_for("the closed port", || {
        TcpStream::connect(a_box.address).is_err()
    });
    a_box.thread.join().unwrap().unwrap();
}

#[test]
fn slow_and_senseless_peers_lose_their_place() {
    let a_box = open(|config, _| {
        config.associations_max = 1;
        config.idle_timeout_s = 1;
    });
    let ends = |stream: &mut TcpStream| {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // An abort may come before the end.
        stream.read_to_end(&mut Vec::new())
    };
    let huge = [0x01, 0, 0xff, 0xff, 0xff, 0xff];
    for bytes in [
        &b"\x16\x03\x01\x02\0\x01\0"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        &huge,
    ] {
        let mut stream = TcpStream::connect(a_box.address).unwrap();
        stream.write_all(bytes).unwrap();
        // Closed, or reset for what was not read.
        let _ = ends(&mut stream);
        a_box.call();
    }
    let mut scu = a_box.call();
    scu.0.inner_stream().write_all(&[0x04, 0, 0]).unwrap();
    assert!(matches!(scu.0.receive(), Ok(Pdu::AbortRQ { .. })));
    a_box.call();
    a_box.close();
}

#[test]
fn trouble_of_the_state_directory_ends_the_source_without_an_answer() {
    let a_box = open(|_, _| {});
    let (accepted, object) = (&a_box.intake.spool.accepted, object(1));
    fs::remove_dir(accepted).unwrap();
    fs::write(accepted, b"").unwrap();
    let mut scu = a_box.call();
    let store = request(dimse::C_STORE, MR, &object.instance, true);
    scu.command(STORE, &store);
    assert!(matches!(scu.0.receive(), Ok(Pdu::AbortRQ { .. })));
    let ended = a_box.thread.join().unwrap();
    assert!(matches!(ended, Err(DicomError::Accept(_))), "{ended:?}");
}

/// The reader is another's, and what it reads may come from anybody.
#[test]
fn damaged_pdus_do_not_break_their_reader() {
    let association = Pdu::AssociationRQ(AssociationRQ {
        protocol_version: 1,
        calling_ae_title: "CT1".into(),
        called_ae_title: "SCANSIDE".into(),
        application_context_name: "1.2.840.10008.3.1.1.1".into(),
        presentation_contexts: vec![PresentationContextProposed {
            id: 1,
            abstract_syntax: MR.into(),
            transfer_syntaxes: vec![EXPLICIT.into()],
        }],
        user_variables: vec![
            UserVariableItem::MaxLength(16_384),
            UserVariableItem::ImplementationClassUID("2.25.1".into()),
            UserVariableItem::ScuScpRoleSelectionSubItem(
                MR.into(),
                RequestorRoles {
                    scu: true,
                    scp: false,
                },
            ),
            UserVariableItem::SopClassExtendedNegotiationSubItem(MR.into(), vec![1, 2]),
        ],
    });
    let value = PDataValue {
        presentation_context_id: 1,
        value_type: PDataValueType::Command,
        is_last: true,
        data: request(dimse::C_ECHO, MR, "", false),
    };
    for pdu in [association, Pdu::PData { data: vec![value] }] {
        let mut good = Vec::new();
        dicom_ul::write_pdu(&mut good, &pdu).unwrap();
        for position in 0..good.len() {
            for byte in [0, 1, 0x10, 0x50, 0x7f, 0xff] {
                let mut damaged = good.clone();
                damaged[position] = byte;
                let _ = dicom_ul::read_pdu(&damaged[..], 1 << 20, false);
                let _ = dicom_ul::read_pdu(&damaged[..position], 1 << 20, false);
            }
        }
    }
}
