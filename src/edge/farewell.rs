//! Closing a connection such that what was written arrives.
//!
//! A socket that is closed while its client still sends (HTTP/2 clients do as they read: WINDOW_UPDATE) answers with a reset, and
//! what of a response the system had not sent yet is lost. So the end is announced, and the client's end is waited for, while
//! whatever it sends is read and dropped (RFC 9112 section 9.6 says the same of HTTP/1.1).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// A client that sends nothing for this long has nothing that could do harm.
const QUIET: Duration = Duration::from_secs(2);
/// One that never closes is not waited for any longer.
const MOST: Duration = Duration::from_secs(30);

/// See the module. The default has not begun.
#[derive(Debug, Default)]
pub struct Farewell(Option<(Pin<Box<Sleep>>, Instant)>);

impl Farewell {
    /// Announces the end of what we write, then waits for the client's. In place of `poll_shutdown` of `io`.
    pub fn poll<IO: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.0.is_none() {
            ready!(Pin::new(&mut *io).poll_shutdown(cx))?;
        }
        let (quiet, end) = self.0.get_or_insert_with(|| (Box::pin(tokio::time::sleep(QUIET)), Instant::now() + MOST));
        let mut dropped = [0; 1024];
        loop {
            let mut buffer = ReadBuf::new(&mut dropped);
            match Pin::new(&mut *io).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    quiet.as_mut().reset((Instant::now() + QUIET).min(*end));
                }
                // It has closed as well, or is gone.
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return quiet.as_mut().poll(cx).map(Ok),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// How long the farewell takes, with a client that does this.
    async fn takes<F: Future<Output = ()>>(client: impl FnOnce(tokio::io::DuplexStream) -> F) -> Duration {
        let (far, mut near) = tokio::io::duplex(64);
        let (mut farewell, begun) = (Farewell::default(), Instant::now());
        let said = async {
            poll_fn(|cx| farewell.poll(&mut near, cx)).await.unwrap();
            begun.elapsed()
        };
        let client = client(far);
        tokio::pin!(client, said);
        let mut client_is_done = false;
        loop {
            tokio::select! {
                took = &mut said => return took,
                () = &mut client, if !client_is_done => client_is_done = true,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_lasts_as_long_as_the_client_sends_and_not_for_ever() {
        let closes = takes(|mut far| async move {
            assert_eq!(far.read(&mut [0]).await.unwrap(), 0, "the end is announced");
        });
        assert!(closes.await < Duration::from_millis(10));
        let silent = takes(|far| async move {
            tokio::time::sleep(Duration::from_secs(100)).await;
            drop(far);
        });
        assert_eq!(silent.await.as_secs(), 2);
        let talks = |seconds| {
            takes(move |mut far| async move {
                for _ in 0..seconds {
                    let _ = far.write_all(&[0; 500]).await;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                std::mem::forget(far);
            })
        };
        assert!((8..=11).contains(&talks(8).await.as_secs()));
        assert_eq!(talks(100).await.as_secs(), 30);
    }
}
