//! Fault F16: what the daemon tells systemd, and how it stops.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use crate::harness::daemon::Daemon;
use crate::harness::process::{TIMEOUT, free_port};

#[test]
fn a_daemon_that_is_stopped_while_it_starts_ends_cleanly() {
    let mut daemon = Daemon::new(free_port(), "");
    daemon.start();
    daemon.wait_for_log("scansided");
    daemon.stop();
}

/// The notifications on `NOTIFY_SOCKET` until one is the last, or until the socket's read timeout.
fn notifications(socket: &UnixDatagram, is_last: impl Fn(&str) -> bool) -> Vec<String> {
    let mut all = Vec::new();
    let mut buffer = [0; 256];
    while let Ok(n) = socket.recv(&mut buffer) {
        all.push(String::from_utf8_lossy(&buffer[..n]).trim().to_owned());
        if all.last().is_some_and(|last| is_last(last)) {
            break;
        }
    }
    all
}

#[test]
fn systemd_is_notified_of_ready_alive_and_stopping() {
    let mut daemon = Daemon::new(free_port(), "");
    let path = daemon.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    daemon.start_with_env(&[
        ("NOTIFY_SOCKET", path.to_str().unwrap()),
        ("WATCHDOG_USEC", "300000"),
    ]);
    assert_eq!(
        notifications(&socket, |word| word == "READY=1"),
        ["READY=1"]
    );
    for _ in 0..3 {
        assert_eq!(notifications(&socket, |_| true), ["WATCHDOG=1"]);
    }
    // A frozen daemon sends nothing, and systemd would restart it.
    daemon.signal("-STOP");
    socket.set_nonblocking(true).unwrap();
    notifications(&socket, |_| false);
    socket.set_nonblocking(false).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    assert_eq!(notifications(&socket, |_| false), [""; 0]);
    daemon.signal("-CONT");
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    assert_eq!(notifications(&socket, |_| true), ["WATCHDOG=1"]);
    daemon.signal("-HUP");
    let reload = notifications(&socket, |word| word == "READY=1");
    let begins = |word: &&String| word.starts_with("RELOADING=1\nMONOTONIC_USEC=");
    assert_eq!(reload.iter().filter(begins).count(), 1, "{reload:?}");
    daemon.stop();
    let last = notifications(&socket, |word| word == "STOPPING=1");
    assert_eq!(last.last().map(String::as_str), Some("STOPPING=1"));
}
