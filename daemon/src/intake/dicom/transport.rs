//! A TCP connection, plain or in TLS. A read takes at most one piece of the network, so that a thread
//! that waits looks at its deadline after each, in a handshake as well as in a record.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::{ServerConfig, ServerConnection};

pub(super) struct Transport {
    stream: TcpStream,
    tls: Option<Box<ServerConnection>>,
}

impl Transport {
    pub(super) fn new(stream: TcpStream, tls: Option<Arc<ServerConfig>>) -> io::Result<Self> {
        let tls = tls.map(|config| ServerConnection::new(config).map(Box::new));
        let tls = tls.transpose().map_err(io::Error::other)?;
        Ok(Self { stream, tls })
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

impl Read for Transport {
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

impl Write for Transport {
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

impl Drop for Transport {
    fn drop(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            // The peer may be gone.
            let _ = send(tls, &mut self.stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;
    use std::time::{Duration, Instant};

    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::config;
    use crate::tls;

    fn server(folder: &std::path::Path) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["box".into()]).unwrap();
        let (certificate_file, key_file) = (folder.join("box.pem"), folder.join("box.key"));
        std::fs::write(&certificate_file, params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        let tls = config::Tls {
            ca_file: None,
            certificate_file: Some(certificate_file),
            key_file: Some(key_file),
        };
        tls::server(&tls).unwrap()
    }

    /// Whoever reads gets to look at its deadline, however slowly a handshake comes.
    #[test]
    fn a_handshake_in_drops_holds_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        stream
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        let mut transport = Transport::new(stream, Some(server(folder.path()))).unwrap();
        let dropping = thread::spawn(move || {
            // A handshake record of 512 bytes, a client's greeting of 508.
            for byte in [22, 3, 1, 2, 0, 1, 0, 1, 252].into_iter().chain([3; 100]) {
                if peer.write_all(&[byte]).is_err() {
                    return;
                }
                thread::sleep(Duration::from_millis(5));
            }
        });
        for _ in 0..20 {
            let start = Instant::now();
            let error = transport.read(&mut [0; 6]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            assert!(start.elapsed() < Duration::from_millis(500));
        }
        drop(transport);
        dropping.join().unwrap();
    }

    #[test]
    fn what_is_no_tls_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        let mut transport = Transport::new(stream, Some(server(folder.path()))).unwrap();
        peer.write_all(&[1, 0, 0, 0, 0, 4, 0, 1, 0, 0]).unwrap();
        let error = transport.read(&mut [0; 6]).unwrap_err();
        let said: Option<&rustls::Error> = error.get_ref().and_then(|e| e.downcast_ref());
        let words = tls::client_words(said.unwrap());
        assert!(words.contains("no TLS, which this port wants"), "{words}");
    }
}
