//! How many log lines from one place in the code there may be in a minute.
//!
//! Whoever reaches a port can cause some lines as often as they like. A server therefore writes the first of each minute and
//! the number of the others, so that nobody can fill its disk.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tracing::{Event, Level, Metadata, Subscriber, callsite::Identifier};
use tracing_subscriber::layer::{Context, Filter};

/// Lines of one place that are written in one [`MINUTE`]. Some thirty places can be caused from outside: 20 lines of 300 bytes
/// a minute are 9 MB a day each.
const LINES: u64 = 20;

/// After which places may write again.
const MINUTE: Duration = Duration::from_secs(60);

/// Lines for each request, which are only written where the operator asks for them.
const ACCESS: &str = "access";

/// How many lines of each place have been written; no bound before [`Quota::keep`]. Lines that operators ask for, below the
/// level `info` and of `access`, are not counted.
#[derive(Clone, Default)]
pub(in crate::cli) struct Quota(Arc<Mutex<Option<Places>>>);

type Places = HashMap<Identifier, Place>;

struct Place {
    target: &'static str,
    line: Option<u32>,
    lines: u64,
}

impl Quota {
    /// Bounds lines from now on, and says every minute what was left out.
    pub(in crate::cli) async fn keep(self) {
        drop(self.turn());
        loop {
            tokio::time::sleep(MINUTE).await;
            for place in self.turn() {
                let (lines, target, line) = (place.lines - LINES, place.target, place.line);
                tracing::warn!(lines, target, line, "log lines of this place in the code were left out");
            }
        }
    }

    /// Lets every place write again; those that had more to say.
    fn turn(&self) -> impl Iterator<Item = Place> {
        let places = self.0.lock().replace(Places::new()).unwrap_or_default();
        places.into_values().filter(|place| place.lines > LINES)
    }

    fn admits(&self, metadata: &'static Metadata<'static>) -> bool {
        if *metadata.level() > Level::INFO || metadata.target() == ACCESS {
            return true;
        }
        let mut places = self.0.lock();
        let Some(places) = &mut *places else { return true };
        let unseen = || Place { target: metadata.target(), line: metadata.line(), lines: 0 };
        let place = places.entry(metadata.callsite()).or_insert_with(unseen);
        place.lines += 1;
        place.lines <= LINES
    }
}

impl<S: Subscriber> Filter<S> for Quota {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        self.admits(event.metadata())
    }
}

#[cfg(test)]
mod tests {
    use std::{io, sync::mpsc};

    use tracing_subscriber::{EnvFilter, Layer as _, layer::SubscriberExt as _};

    use super::*;

    /// Passes on what is written.
    struct Pipe(mpsc::Sender<Vec<u8>>);

    impl io::Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).unwrap();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_place_writes_so_many_lines_a_minute_and_what_operators_ask_for_is_not_counted() {
        let (sender, lines) = mpsc::channel();
        let quota = Quota::default();
        let written = tracing_subscriber::fmt::layer().with_writer(move || Pipe(sender.clone()));
        let filter = EnvFilter::new("debug,access=info");
        let subscriber = tracing_subscriber::registry().with(filter).with(written.with_filter(quota.clone()));
        tracing::subscriber::with_default(subscriber, || {
            let storm = || {
                for _ in 0..50 {
                    tracing::warn!("first");
                    tracing::warn!("second");
                    tracing::debug!("third");
                    tracing::info!(target: "access", "fourth");
                }
            };
            let count = |lines: &mpsc::Receiver<Vec<u8>>| {
                let text = String::from_utf8(lines.try_iter().flatten().collect()).unwrap();
                ["first", "second", "third", "fourth"].map(|word| text.matches(word).count())
            };
            storm();
            assert_eq!(count(&lines), [50; 4], "no bound was asked for");
            assert_eq!(quota.turn().count(), 0);
            storm();
            assert_eq!(count(&lines), [20, 20, 50, 50]);
            let left_out: Vec<_> = quota.turn().map(|place| place.lines - LINES).collect();
            assert_eq!(left_out, [30, 30]);
            storm();
            assert_eq!(count(&lines), [20, 20, 50, 50]);
        });
    }
}
