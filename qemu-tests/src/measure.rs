//! Reading the results of ping and iperf3.

use std::fmt;

use serde_json::Value;

use crate::failure::{Context, Failure, Result};

/// Summary of one run of busybox's ping.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ping {
    /// Echo requests sent.
    pub sent: u32,
    /// Replies received.
    pub received: u32,
    /// Shortest, average and longest round trip in milliseconds; absent when no reply came.
    pub rtt_ms: Option<[f64; 3]>,
}

impl Ping {
    /// Reads ping's last lines.
    pub fn parse(output: &str) -> Result<Self> {
        let malformed = || Failure::new(format!("not ping's summary: {output:?}"));
        let counts =
            output.lines().find(|line| line.contains("packets transmitted")).ok_or_else(malformed)?;
        let mut numbers = counts.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok());
        let (sent, received) = numbers.next().zip(numbers.next()).ok_or_else(malformed)?;
        let rtt_ms = output.lines().find_map(|line| line.strip_prefix("round-trip min/avg/max = ")).and_then(
            |times| {
                let mut times = times.trim_end_matches(" ms").split('/').filter_map(|time| time.parse().ok());
                Some([times.next()?, times.next()?, times.next()?])
            },
        );
        Ok(Ping { sent, received, rtt_ms })
    }

    /// Echo requests without a reply.
    pub fn lost(&self) -> u32 {
        self.sent.saturating_sub(self.received)
    }

    /// Average round trip, infinite when no reply came.
    pub fn average_ms(&self) -> f64 {
        self.rtt_ms.map_or(f64::INFINITY, |[_, average, _]| average)
    }

    /// Longest round trip, infinite when no reply came.
    pub fn longest_ms(&self) -> f64 {
        self.rtt_ms.map_or(f64::INFINITY, |[_, _, longest]| longest)
    }
}

impl fmt::Display for Ping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} answered", self.received, self.sent)?;
        if let Some([shortest, average, longest]) = self.rtt_ms {
            write!(f, ", round trip {average:.3} ms on average ({shortest:.3} to {longest:.3})")?;
        }
        Ok(())
    }
}

/// Summary of one run of iperf3 with `-J`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Throughput {
    /// Rate at the receiver.
    pub gbits_per_s: f64,
    /// Datagrams lost, percent; 0 for TCP.
    pub lost_percent: f64,
    /// Rate at the sender in the last interval: nothing when the connection hung at the end.
    pub last_interval_gbits_per_s: f64,
}

impl Throughput {
    /// Reads iperf3's JSON.
    pub fn parse(output: &str) -> Result<Self> {
        let report: Value =
            serde_json::from_str(output.trim()).context(format!("not iperf3's report: {output:?}"))?;
        if let Some(error) = report["error"].as_str() {
            crate::fail!("iperf3: {error}");
        }
        let end = &report["end"];
        let received = if end["sum_received"].is_object() { &end["sum_received"] } else { &end["sum"] };
        let gbits = |sum: &Value| sum["bits_per_second"].as_f64().map(|bits| bits / 1e9);
        let last = report["intervals"].as_array().and_then(|intervals| intervals.last());
        Ok(Throughput {
            gbits_per_s: gbits(received)
                .ok_or_else(|| Failure::new(format!("iperf3 received nothing: {end}")))?,
            lost_percent: end["sum"]["lost_percent"].as_f64().unwrap_or(0.0),
            last_interval_gbits_per_s: last.and_then(|interval| gbits(&interval["sum"])).unwrap_or(0.0),
        })
    }
}

impl fmt::Display for Throughput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} Gbit/s", self.gbits_per_s)?;
        if self.lost_percent > 0.0 {
            write!(f, ", {:.2} % lost", self.lost_percent)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ping_summary_gives_counts_and_times() {
        let text = "--- 10.0.0.2 ping statistics ---\n5 packets transmitted, 4 packets received, 20% packet loss\n\
                    round-trip min/avg/max = 0.912/1.305/2.001 ms\n";
        let ping = Ping::parse(text).unwrap();
        assert_eq!(ping, Ping { sent: 5, received: 4, rtt_ms: Some([0.912, 1.305, 2.001]) });
        assert_eq!(ping.lost(), 1);
    }

    #[test]
    fn ping_without_replies_has_no_times() {
        let ping = Ping::parse("3 packets transmitted, 0 packets received, 100% packet loss\n").unwrap();
        assert_eq!(ping, Ping { sent: 3, received: 0, rtt_ms: None });
        assert_eq!(ping.average_ms(), f64::INFINITY);
    }

    #[test]
    fn ping_that_said_something_else_is_a_failure() {
        assert!(Ping::parse("ping: sendto: Network is unreachable").is_err());
    }

    #[test]
    fn iperf_error_is_a_failure() {
        assert!(Throughput::parse(r#"{"error": "unable to connect"}"#).is_err());
    }

    #[test]
    fn iperf_udp_report_gives_loss() {
        let text = r#"{"intervals": [{"sum": {"bits_per_second": 1e9}}],
                       "end": {"sum": {"bits_per_second": 2e9, "lost_percent": 1.5}}}"#;
        let expected = Throughput { gbits_per_s: 2.0, lost_percent: 1.5, last_interval_gbits_per_s: 1.0 };
        assert_eq!(Throughput::parse(text).unwrap(), expected);
    }
}
