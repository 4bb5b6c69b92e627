//! A small HTTP client for the daemon's `[http]` section.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use serde_json::Value;

use crate::harness::process::TIMEOUT;

pub(crate) fn config_section(port: u16) -> String {
    format!("\n[http]\nlisten = \"127.0.0.1:{port}\"\n")
}

/// Status and body.
pub(crate) fn get(port: u16, path: &str) -> io::Result<(u16, String)> {
    exchange(port, &format!("GET {path} HTTP/1.1\r\n"), b"")
}

/// Sends an image; gives status and body.
pub(crate) fn post(port: u16, body: &[u8]) -> io::Result<(u16, Value)> {
    let (status, body) = exchange(port, "POST /v1/images HTTP/1.1\r\n", body)?;
    Ok((status, serde_json::from_str(&body)?))
}

fn exchange(port: u16, head: &str, body: &[u8]) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let length = body.len();
    let rest = format!("Host: box\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all((head.to_owned() + &rest).as_bytes())?;
    stream.write_all(body)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let cut = || io::Error::other("the answer is cut off");
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(cut)?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    Ok((status.ok_or_else(cut)?, body.to_owned()))
}
