//! Guest memory and virtqueues, turned into bursts of packets and back.
