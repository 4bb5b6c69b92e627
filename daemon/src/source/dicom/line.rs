//! A TCP connection, plain or in TLS. A read takes at most one piece of the network, so that whoever
//! waits looks at its deadline after each, in a handshake as well as in a record.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::{ServerConfig, ServerConnection};

pub(super) struct Line {
    stream: TcpStream,
    tls: Option<Box<ServerConnection>>,
}

impl Line {
    pub(super) fn new(stream: TcpStream, tls: Option<Arc<ServerConfig>>) -> io::Result<Self> {
        let tls = tls.map(|config| ServerConnection::new(config).map(Box::new));
        let tls = tls.transpose().map_err(io::Error::other)?;
        Ok(Self { stream, tls })
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

impl Read for Line {
    /// `WouldBlock` when what came holds nothing for the reader yet.
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let Self { stream, tls } = self;
        let Some(tls) = tls else {
            return stream.read(bytes);
        };
        match tls.reader().read(bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            read => return read,
        }
        tls.read_tls(stream)?;
        let processed = tls.process_new_packets();
        // An alert too, when they could not be processed.
        send(tls, stream)?;
        processed.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        tls.reader().read(bytes)
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Self { stream, tls } = self;
        let Some(tls) = tls else {
            return stream.write(bytes);
        };
        let written = tls.writer().write(bytes)?;
        send(tls, stream)?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

fn send(tls: &mut ServerConnection, stream: &mut TcpStream) -> io::Result<()> {
    while tls.wants_write() {
        tls.write_tls(stream)?;
    }
    Ok(())
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            // The peer may be gone.
            let _ = send(tls, &mut self.stream);
        }
    }
}
