//! Where a server listens, and the connection to it.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// What i-PI puts before the name of a unix socket (`<address>` with `mode='unix'`), unless told otherwise.
pub const DEFAULT_PREFIX: &str = "/tmp/ipi_";

/// Reads and writes return after this long, so that a request to stop is noticed.
const PATIENCE: Duration = Duration::from_millis(100);
/// As long is waited for a message that should be there already.
const MOMENT: Duration = Duration::from_millis(2);
/// A connection over a network is given up after this long.
const CONNECT: Duration = Duration::from_secs(5);

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A socket in the file system.
    Unix(PathBuf),
    /// A port of a machine.
    Tcp {
        /// Name or number of the machine.
        host: String,
        /// The port.
        port: u16,
    },
}

impl Address {
    /// A unix socket by the name that i-PI has for it (`<address>`), or by its path: whatever has a slash in it.
    pub fn unix(name: &str) -> Self {
        if name.contains('/') { Self::Unix(name.into()) } else { Self::Unix(format!("{DEFAULT_PREFIX}{name}").into()) }
    }

    pub(super) fn connect(&self) -> io::Result<Stream> {
        match self {
            #[cfg(unix)]
            Self::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Ok(Stream::Unix(stream))
            }
            #[cfg(not(unix))]
            Self::Unix(_) => Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no unix sockets")),
            Self::Tcp { host, port } => {
                // A name may have several addresses, and i-PI listens at one of them.
                let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
                for address in (host.as_str(), *port).to_socket_addrs()? {
                    match TcpStream::connect_timeout(&address, CONNECT) {
                        Ok(stream) => {
                            // Messages are small and each is waited for.
                            stream.set_nodelay(true)?;
                            stream.set_read_timeout(Some(PATIENCE))?;
                            stream.set_write_timeout(Some(PATIENCE))?;
                            return Ok(Stream::Tcp(stream));
                        }
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "the unix socket {}", path.display()),
            Self::Tcp { host, port } => write!(f, "port {port} of {host}"),
        }
    }
}

/// What messages go over.
pub(super) trait Link: Read + Write {
    /// Makes reads return after a moment, or after the usual time.
    fn hurry(&self, hurry: bool);

    /// Tells the other side that nothing more will come.
    fn say_goodbye(&self);
}

impl Link for Stream {
    fn hurry(&self, hurry: bool) {
        let patience = Some(if hurry { MOMENT } else { PATIENCE });
        // It has worked before, on this very connection.
        match self {
            #[cfg(unix)]
            Self::Unix(stream) => stream.set_read_timeout(patience),
            Self::Tcp(stream) => stream.set_read_timeout(patience),
        }
        .ok();
    }

    fn say_goodbye(&self) {
        // Whoever has hung up need not be told.
        match self {
            #[cfg(unix)]
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
        }
        .ok();
    }
}

/// A connection.
#[derive(Debug)]
pub(super) enum Stream {
    #[cfg(unix)]
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Read for Stream {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        match self {
            #[cfg(unix)]
            Self::Unix(stream) => stream.read(to),
            Self::Tcp(stream) => stream.read(to),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            #[cfg(unix)]
            Self::Unix(stream) => stream.write(bytes),
            Self::Tcp(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
