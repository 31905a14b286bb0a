//! Sockets that senders connect to.

use super::{LOOK, Service, Socket, log};
use anyhow::{Context, Result, bail};
use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepidle, set_tcp_keepintvl};
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Where a service listens.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Address {
    Unix(PathBuf),
    Tcp(String),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("unix", path)) if !path.is_empty() => Ok(Address::Unix(path.into())),
            Some(("tcp", address)) if address.contains(':') => Ok(Address::Tcp(address.to_owned())),
            _ => Err("must be unix:PATH or tcp:HOST:PORT, as in tcp:127.0.0.1:7070".to_owned()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

impl Address {
    /// Listens there; with the socket's place in the file system, if it has one.
    pub(super) fn bind(&self) -> Result<(Listener, Option<Socket>)> {
        let cannot = || format!("{self}: cannot be listened on");
        match self {
            Address::Tcp(address) => Ok((Listener::Tcp(TcpListener::bind(address).with_context(cannot)?), None)),
            Address::Unix(path) => {
                if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()) {
                    bail!("{self}: there is no folder {}; make it first", folder.display());
                }
                let listener = match UnixListener::bind(path) {
                    Err(error) if error.kind() == ErrorKind::AddrInUse => {
                        if UnixStream::connect(path).is_ok() {
                            bail!("{self}: another service listens there");
                        }
                        // What a killed service left behind goes; any other file stays.
                        if !std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
                            bail!("{self}: a file of that name is there, and it is no socket");
                        }
                        std::fs::remove_file(path).with_context(cannot)?;
                        UnixListener::bind(path)
                    }
                    bound => bound,
                };
                Ok((Listener::Unix(listener.with_context(cannot)?), Some(Socket::at(path).with_context(cannot)?)))
            }
        }
    }
}

/// How long a sender may be silent before its system is asked whether it is still there.
const SILENT: Duration = Duration::from_secs(60);

/// A socket that senders connect to.
pub(super) enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    /// Where it listens, the port included that the system chose.
    pub(super) fn address(&self, asked: &Address) -> String {
        match self {
            Listener::Tcp(listener) => listener.local_addr().map_or_else(|_| asked.to_string(), |address| format!("tcp:{address}")),
            Listener::Unix(_) => asked.to_string(),
        }
    }

    /// Takes senders as they come, each in a thread of its own, for as long as the program lives.
    pub(super) fn serve(&self, service: &'static Service) {
        for number in 1u64.. {
            if let Err(error) = self.accept(service, number) {
                log(format_args!("a sender could not be taken: {error}"));
                // Too many open files, say: others may close theirs.
                std::thread::sleep(LOOK);
            }
        }
    }

    fn accept(&self, service: &'static Service, number: u64) -> io::Result<()> {
        match self {
            Listener::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                start(service, format!("sender {number}"), stream.try_clone()?, stream)
            }
            Listener::Tcp(listener) => {
                let (stream, from) = listener.accept()?;
                // An answer is wanted now, not when more have come together.
                stream.set_nodelay(true)?;
                // A sender that is gone without a word gives its place back.
                set_socket_keepalive(&stream, true)?;
                set_tcp_keepidle(&stream, SILENT)?;
                set_tcp_keepintvl(&stream, SILENT / 6)?;
                start(service, from.to_string(), stream.try_clone()?, stream)
            }
        }
    }
}

fn start(service: &'static Service, name: String, input: impl Read + Send + 'static, out: impl Write + Send + 'static) -> io::Result<()> {
    let run = move || match service.stream(&name, input, out) {
        Ok(steps) => log(format_args!("{name}: {steps} steps")),
        Err(error) => log(format_args!("{name}: {error:#}")),
    };
    std::thread::Builder::new().name("stream".to_owned()).spawn(run)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Address;

    #[test]
    fn addresses_say_what_they_are() {
        assert_eq!("unix:/run/a b.sock".parse(), Ok(Address::Unix("/run/a b.sock".into())));
        assert_eq!("tcp:[::1]:80".parse(), Ok(Address::Tcp("[::1]:80".to_owned())));
        for bad in ["", "unix:", "tcp:localhost", "localhost:80", "/run/a.sock"] {
            assert!(bad.parse::<Address>().unwrap_err().contains("unix:PATH"), "{bad}");
        }
    }
}
