//! Whole configurations: files, their errors, and the command line over them.

use vsteer_switch::wire::vlan::VlanId;

use super::*;

fn from_toml(text: &str) -> Result<Config, ConfigError> {
    Config::merge(ConfigSource::default(), file::parse(Path::new("v.toml"), text)?)
}

fn toml_error(text: &str) -> String {
    from_toml(text).unwrap_err().to_string()
}

fn command_line(ports: &[&str]) -> ConfigSource {
    let mut source = ConfigSource::default();
    ports.iter().try_for_each(|port| source.add_port(port)).unwrap();
    source
}

fn first_allowed_cpu() -> usize {
    CpuList::allowed().unwrap().as_slice()[0]
}

#[test]
fn nothing_said_is_one_free_worker_that_adapts() {
    let config = Config::merge(ConfigSource::default(), ConfigSource::default()).unwrap();
    assert_eq!(
        config,
        Config {
            workers: vec![None],
            poll: PollMode::Adaptive,
            control: None,
            ports: Vec::new(),
            mirrors: Vec::new(),
            table_names: TableNames::default(),
            rules: None,
            flow_cache: FlowCacheConfig::default(),
            vlan_limit: VlanLimit::One,
            fragments: FragmentMode::Normal,
        }
    );
}

#[test]
fn file_says_what_the_command_line_says() {
    let cpu = first_allowed_cpu();
    let config = from_toml(&format!(
        r#"
        workers = [{cpu}]
        poll = "interrupt"
        control = "/tmp/c.sock"

        [port.vm1]
        type = "vhost-user"
        path = "/run/a,b.sock"
        trunks = [10, "20-29"]
        native = 1
        perm = 0o660
        owner = "root"
        queues = 0x10
        tso = false

        [port.host]
        type = "tap"
        interface = "vsteer0"
        vlan = 10
        csum = "on"
        mac-limit = 1_000
        "#
    ))
    .unwrap();
    assert_eq!(config.workers, [Some(cpu)]);
    assert_eq!(config.poll, PollMode::Interrupt);
    assert_eq!(config.control.as_deref(), Some(Path::new("/tmp/c.sock")));
    let ports: Vec<String> = config.ports.iter().map(PortSpec::to_string).collect();
    assert_eq!(
        ports,
        [
            "vm1=vhost-user:/run/a,b.sock,owner=0,perm=0660,trunks=10+20-29,native=1,mac-limit=4096,queues=16,csum=on,\
             tso=off",
            "host=tap:vsteer0,vlan=10,mac-limit=1000,queues=1,csum=on,tso=on",
        ]
    );
}

#[test]
fn file_errors_name_file_line_key_and_what_to_try() {
    let port = "[port.vm0]\ntype = \"vhost-user\"\npath = \"/x\"\n";
    for (text, error) in [
        ("\nworker = [1]".to_owned(), "v.toml:2: unknown key \"worker\"; did you mean \"workers\"?"),
        (
            "name = 1".to_owned(),
            "v.toml:1: unknown key \"name\"; use one of workers, poll, control, port, mirror, table-names, rules, \
             rules-file, flow-cache, vlan-limit, fragments",
        ),
        ("workers = \"x\"".to_owned(), "v.toml:1: workers: \"x\" is no CPU; write numbers as in 1,3 or 4-7"),
        (
            "\n\npoll = \"adaptiv\"".to_owned(),
            "v.toml:3: poll: unknown mode \"adaptiv\"; did you mean \"adaptive\"?",
        ),
        (
            "poll = \"never\"".to_owned(),
            "v.toml:1: poll: unknown mode \"never\"; use one of busy, adaptive, interrupt",
        ),
        ("control = 1".to_owned(), "v.toml:1: control: text belongs here, not integer; put it in quotes"),
        (
            "[[port]]\nname = \"vm0\"".to_owned(),
            "v.toml:1: port: no table; write each port as [port.NAME], as in [port.vm0]",
        ),
        ("port.vm0 = 3".to_owned(), "v.toml:1: port.vm0: no table; write [port.vm0] and its options below"),
        (
            "[port.vm0]\n".to_owned(),
            "v.toml:1: port.vm0: no type; add type = \"vhost-user\" or type = \"tap\" or type = \"pcap\"",
        ),
        (
            "[port.vm0]\n\ntype = \"vhost\"".to_owned(),
            "v.toml:3: port.vm0.type: unknown port type \"vhost\"; use vhost-user:PATH, tap:IFNAME or pcap:FILE",
        ),
        (
            "[port.vm0]\ntype = \"tap\"".to_owned(),
            "v.toml:1: port.vm0: no interface; use interface = \"NAME\"",
        ),
        (
            "[port.vm0]\ntype = \"tap\"\npath = \"/x\"".to_owned(),
            "v.toml:3: port.vm0.path: belongs to vhost-user ports; a tap port has interface = \"IFNAME\"",
        ),
        (
            format!("{port}vlan = 4095"),
            "v.toml:4: port.vm0.vlan: \"4095\" is no VLAN; use a number from 1 to 4094",
        ),
        (
            format!("{port}queue = 1"),
            "v.toml:4: port.vm0.queue: unknown option \"queue\"; did you mean \"queues\"?",
        ),
        (
            format!("{port}mtu = 1.5"),
            "v.toml:4: port.vm0.mtu: float has no meaning here; use text, a number or a boolean",
        ),
        (
            format!("{port}mode = \"client\"\nperm = 0o600"),
            "v.toml:1: port.vm0: with mode=client the socket file is the front-end's; drop perm=",
        ),
    ] {
        assert_eq!(toml_error(&text), error, "{text}");
    }
}

const THREE_TAPS: &str = "[port.a]\ntype=\"tap\"\ninterface=\"a\"\n[port.b]\ntype=\"tap\"\ninterface=\"b\"\n\
                          [port.c]\ntype=\"tap\"\ninterface=\"c\"\n";

#[test]
fn mirrors_are_tables_with_the_words_of_the_command_line() {
    let text = format!(
        "{THREE_TAPS}[[mirror]]\nname = \"m\"\nsrc = [\"a\", \"b\"]\nvlan = [10, \"20-29\"]\noutput = \"c\"\n\
         [[mirror]]\nname = \"n\"\nsrc = \"all\"\noutput = \"c\"\n"
    );
    let line = ConfigSource {
        mirrors: vec![Placed {
            place: "--mirror".into(),
            value: MirrorSpec::parse("--mirror", "n,dst=a,output=b").unwrap(),
        }],
        ..ConfigSource::default()
    };
    let file = file::parse(Path::new("v.toml"), &text).unwrap();
    let config = Config::merge(line, file).unwrap();
    let mirrors: Vec<String> = config.mirrors.iter().map(MirrorSpec::to_string).collect();
    assert_eq!(mirrors, ["m,src=a+b,vlan=10+20-29,output=c", "n,dst=a,output=b"]);

    for (mirror, error) in [
        (
            "name = \"m\"\nsrc = \"x\"\noutput = \"c\"",
            "v.toml:10: mirror: no port \"x\"; add it, or name another",
        ),
        ("src = \"a\"", "v.toml:10: mirror: no name; add name = \"NAME\""),
        (
            "name = \"m\"\nsource = \"a\"",
            "v.toml:12: mirror.source: unknown option \"source\"; use one of name, src, dst, vlan, output",
        ),
    ] {
        assert_eq!(toml_error(&format!("{THREE_TAPS}[[mirror]]\n{mirror}\n")), error);
    }
    assert_eq!(
        toml_error("[mirror]\nname = \"m\"\n"),
        "v.toml:1: mirror: no table; write each mirror as [[mirror]] and its options below"
    );
}

#[test]
fn one_port_is_local() {
    let error =
        Config::merge(command_line(&["a=tap:a,local=on", "b=tap:b,local=on"]), ConfigSource::default());
    assert_eq!(
        error.unwrap_err().to_string(),
        "--port b=tap:b,local=on: --port a=tap:a,local=on is the local port already; drop local=on from one of them"
    );
    assert!(from_toml("[port.a]\ntype = \"tap\"\ninterface = \"a\"\nlocal = true\n").unwrap().ports[0].local);
}

#[test]
fn rules_know_their_lines_and_those_of_the_command_line_win() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("acl"), "priority=5,actions=drop\n").unwrap();
    let path = folder.path().join("v.toml");
    let source = path.display().to_string();
    let text = "poll = \"busy\"\nrules = \"\"\"\nactions=normal\n\"\"\"\nrules-file = \"acl\"\n";
    let inline = RulesText { source: source.clone(), lines_before: 2, text: "actions=normal\n".into() };
    let own_file = RulesText {
        source: folder.path().join("acl").display().to_string(),
        lines_before: 0,
        text: "priority=5,actions=drop\n".into(),
    };
    let file = || file::parse(&path, text).unwrap();
    let config = Config::merge(ConfigSource::default(), file()).unwrap();
    assert_eq!(config.rules, Some(vec![inline, own_file.clone()]));

    let mut line = ConfigSource::default();
    line.add_rules(&folder.path().join("acl"));
    assert_eq!(Config::merge(line, file()).unwrap().rules, Some(vec![own_file]));

    let mut missing = ConfigSource::default();
    missing.add_rules(Path::new("/nonexistent/acl"));
    let error = Config::merge(missing, ConfigSource::default()).unwrap_err().to_string();
    assert!(error.starts_with("--rules: /nonexistent/acl cannot be read: "), "{error}");
}

#[test]
fn tables_have_names_and_rules_know_them() {
    let file = |text: &str| file::parse(Path::new("v.toml"), text).unwrap();
    let line = |names: &[&str]| {
        let mut source = ConfigSource::default();
        names.iter().try_for_each(|name| source.add_table_name(name)).map(|()| source)
    };
    let named = |config: &Config| {
        config.table_names.iter().map(|(table, name)| format!("{table}={name}")).collect::<Vec<_>>()
    };
    let three = "[table-names]\n1 = \"acl\"\n2 = \"nat\"\n3 = \"out\"\n";
    let config = Config::merge(ConfigSource::default(), file(three)).unwrap();
    assert_eq!(named(&config), ["1=acl", "2=nat", "3=out"]);
    assert!(config.to_string().ends_with("\ntable    1=acl\ntable    2=nat\ntable    3=out\n"), "{config}");
    // The command line wins by table and by name.
    let both = Config::merge(line(&["1=in", "7=nat"]).unwrap(), file(three)).unwrap();
    assert_eq!(named(&both), ["1=in", "3=out", "7=nat"]);

    let rules = "rules = \"\"\"\ntable=0,actions=resubmit(,acl)\ntable=acl,actions=goto_table:nat\n\"\"\"\n";
    assert!(from_toml(&format!("{rules}{three}")).is_ok());
    assert_eq!(
        toml_error(&format!("{}{three}", rules.replace("goto_table:nat", "goto_table:nta"))),
        "v.toml:3:30: found \"nta\", expected a table's number or name; did you mean \"nat\"?"
    );
    assert_eq!(
        toml_error(rules),
        "v.toml:2:27: found \"acl\", expected a table's number, from 0 to 254, as no table has a name (--table NUMBER=NAME gives one)"
    );

    for (text, error) in [
        ("1", "--table 1: no \"=\"; write NUMBER=NAME, as in 1=acl"),
        ("255=a", "--table 255=a: table: \"255\" is out of range; use a number from 0 to 254"),
        ("acl=1", "--table acl=1: table: \"acl\" is out of range; use a number from 0 to 254"),
        (
            "1=2",
            "--table 1=2: table name \"2\" does not fit; use 1 to 31 of letters, digits, _ . and -, but no number and \
             not the word all",
        ),
    ] {
        assert_eq!(line(&[text]).unwrap_err().to_string(), error);
    }
    for name in ["", "0x1", "a,b", "a(b)", "a b", "a=b", "a#b", "\"a\"", "ALL"] {
        let error = line(&[&format!("1={name}")]).unwrap_err().to_string();
        assert!(error.contains("does not fit; use 1 to 31"), "{error}");
    }
    let twice = |names: &[&str]| {
        Config::merge(line(names).unwrap(), ConfigSource::default()).unwrap_err().to_string()
    };
    assert_eq!(
        twice(&["1=a", "2=a"]),
        "--table 2=a: the name \"a\" is given to table 1 by --table 1=a; use another"
    );
    assert_eq!(
        twice(&["1=a", "1=b"]),
        "--table 1=b: table 1 has a name from --table 1=a already; give it one"
    );
    for (text, error) in [
        (
            "[table-names]\n1 = \"a\"\n\n2 = \"a\"",
            "v.toml:4: table-names.2: the name \"a\" is given to table 1 by v.toml:2: table-names.1; use another",
        ),
        ("[table-names]\n1 = 2", "v.toml:2: table-names.1: text belongs here, not integer; put it in quotes"),
        (
            "[table-names]\nacl = \"1\"",
            "v.toml:2: table-names.acl: table: \"acl\" is out of range; use a number from 0 to 254",
        ),
        (
            "table-names = 1",
            "v.toml:1: table-names: no table; write [table-names] and NUMBER = \"NAME\" below",
        ),
    ] {
        assert_eq!(toml_error(text), error);
    }
}

#[test]
fn what_is_read_of_a_packet_is_chosen_by_line_or_file() {
    let file = |text| from_toml(text).map(|config| (config.vlan_limit, config.fragments));
    assert_eq!(file(""), Ok((VlanLimit::One, FragmentMode::Normal)));
    assert_eq!(file("vlan-limit = 2\nfragments = \"nx-match\""), Ok((VlanLimit::Two, FragmentMode::NxMatch)));
    assert_eq!(file("vlan-limit = \"1\"\nfragments = \"drop\""), Ok((VlanLimit::One, FragmentMode::Drop)));
    assert_eq!(
        toml_error("vlan-limit = 3"),
        "v.toml:1: vlan-limit: \"3\" is no number of tags that can be read; use 1 or 2"
    );
    assert_eq!(
        toml_error("fragments = \"reassemble\""),
        "v.toml:1: fragments: unknown mode \"reassemble\"; use one of normal, nx-match, drop"
    );
    assert_eq!(
        toml_error("fragments = \"nxmatch\""),
        "v.toml:1: fragments: unknown mode \"nxmatch\"; did you mean \"nx-match\"?"
    );
    let mut line = ConfigSource::default();
    line.set_vlan_limit("2").unwrap();
    line.set_fragments("drop").unwrap();
    let file = ConfigSource { fragments: Some(FragmentMode::NxMatch), ..ConfigSource::default() };
    let config = Config::merge(line, file).unwrap();
    assert_eq!((config.vlan_limit, config.fragments), (VlanLimit::Two, FragmentMode::Drop));
    assert_eq!(
        ConfigSource::default().set_vlan_limit("0").unwrap_err().to_string(),
        "--vlan-limit 0: \"0\" is no number of tags that can be read; use 1 or 2"
    );
}

#[test]
fn flow_cache_keeps_to_its_bounds() {
    let bounds = |text| from_toml(text).unwrap().flow_cache;
    assert_eq!(bounds(""), FlowCacheConfig::default());
    assert_eq!(
        bounds("[flow-cache]\nmax-flows = 1_000_000\nmax-idle-ms = 100"),
        FlowCacheConfig { max_flows: 1_000_000, max_idle_ms: 100, ..FlowCacheConfig::default() }
    );
    assert_eq!(
        bounds("[flow-cache]\nmax-masks-per-port = 64\nupcalls-per-s = 50000"),
        FlowCacheConfig { max_masks_per_port: 64, upcalls_per_s: 50_000, ..FlowCacheConfig::default() }
    );
    assert!(toml_error("[flow-cache]\nmax-masks-per-port = 5000").contains("1 to 4096"));
    assert_eq!(
        toml_error("[flow-cache]\nmax-idle-ms = 10"),
        "v.toml:2: flow-cache.max-idle-ms: \"10\" is no number from 100 to 3600000; use one of these"
    );
    assert!(toml_error("[flow-cache]\nmax-flow = 1").contains("max-flows"));
    assert!(toml_error("flow-cache = 1").contains("write [flow-cache]"));
}

#[test]
fn broken_toml_names_file_and_line() {
    assert!(toml_error("poll = \"busy\"\nworkers = [1,").starts_with("v.toml:2: "));
    let twice = "[port.a]\ntype=\"tap\"\ninterface=\"t\"\n[port.a]\n";
    assert!(toml_error(twice).starts_with("v.toml:4: "), "{}", toml_error(twice));
}

#[test]
fn a_missing_file_is_named() {
    let error = ConfigSource::from_file(Path::new("/nonexistent/v.toml")).unwrap_err().to_string();
    assert!(error.starts_with("--config /nonexistent/v.toml: cannot be read: "), "{error}");
}

#[test]
fn command_line_wins_over_the_file() {
    let file = r#"
        poll = "busy"
        control = "/tmp/file.sock"
        [port.a]
        type = "tap"
        interface = "ta"
        [port.b]
        type = "tap"
        interface = "tb"
    "#;
    let mut line = command_line(&["c=tap:tc", "a=tap:other"]);
    line.poll = Some(PollMode::Interrupt);
    let config = Config::merge(line, file::parse(Path::new("v.toml"), file).unwrap()).unwrap();
    assert_eq!(config.poll, PollMode::Interrupt);
    assert_eq!(config.control.as_deref(), Some(Path::new("/tmp/file.sock")));
    let ports: Vec<(&str, String)> =
        config.ports.iter().map(|port| (port.name.as_str(), port.address())).collect();
    assert_eq!(ports, [("b", "tb".into()), ("c", "tc".into()), ("a", "other".into())]);
}

#[test]
fn names_sockets_and_interfaces_are_used_once() {
    let error = |ports| Config::merge(command_line(ports), ConfigSource::default()).unwrap_err().to_string();
    assert_eq!(
        error(&["a=tap:t0", "a=tap:t1"]),
        "--port a=tap:t1: the name \"a\" is taken by --port a=tap:t0; use another"
    );
    assert_eq!(
        error(&["a=tap:t0", "b=tap:t0"]),
        "--port b=tap:t0: t0 is used by --port a=tap:t0 too; give each port its own"
    );
    assert_eq!(
        error(&["a=vhost-user:/x/./s", "b=vhost-user:/x/s,mode=client"]),
        "--port b=vhost-user:/x/s,mode=client: /x/s is used by --port a=vhost-user:/x/./s too; give each port its own"
    );
    assert_eq!(
        error(&["a=vhost-user:/x/s", "b=pcap:/f,out=/x/./s"]),
        "--port b=pcap:/f,out=/x/./s: /x/s is used by --port a=vhost-user:/x/s too; give each port its own"
    );
    let same_word = command_line(&["a=tap:t0", "b=vhost-user:t0", "c=pcap:/f", "d=pcap:/f"]);
    assert!(Config::merge(same_word, ConfigSource::default()).is_ok());
}

#[test]
fn too_many_ports_are_refused() {
    let mut source = ConfigSource::default();
    for number in 0..=MAX_PORTS {
        source.add_port(&format!("p{number}=tap:t{number}")).unwrap();
    }
    let error = Config::merge(source, ConfigSource::default()).unwrap_err().to_string();
    assert_eq!(error, "--port p1024=tap:t1024: more ports than 1024; drop some");
}

#[test]
fn workers_are_pinned_to_cpus_this_process_may_use() {
    let cpu = first_allowed_cpu();
    let mut source = ConfigSource::default();
    source.set_workers(&cpu.to_string()).unwrap();
    assert_eq!(Config::merge(source, ConfigSource::default()).unwrap().workers, [Some(cpu)]);

    let absent = (0..).find(|cpu| !CpuList::allowed().unwrap().as_slice().contains(cpu)).unwrap();
    let mut source = ConfigSource::default();
    source.set_workers(&absent.to_string()).unwrap();
    let error = Config::merge(source, ConfigSource::default()).unwrap_err().to_string();
    let allowed = CpuList::allowed().unwrap();
    assert_eq!(error, format!("--workers {absent}: no CPU {absent} for this process; it may use {allowed}"));
}

#[test]
fn side_car_ports_take_options() {
    let mut source = ConfigSource::default();
    source.add_vm_path("vm", "/run/a,b.sock", "vlan=10,mtu=9000").unwrap();
    let port = &source.ports[0];
    assert_eq!(port.place, "--socket-path=/run/a,b.sock --vm-options vlan=10,mtu=9000");
    assert_eq!(port.value.address(), "/run/a,b.sock");
    assert_eq!(port.value.vlan, VlanSpec::Access { vlan: VlanId::new(10).unwrap() });

    let error = source.add_vm_path("vm", "/s", "vlna=10").unwrap_err().to_string();
    assert_eq!(
        error,
        "--socket-path=/s --vm-options vlna=10: unknown option \"vlna\"; did you mean \"vlan\"?"
    );
    let error = source.add_vm_fd("vm", 900_000, "").unwrap_err().to_string();
    assert!(error.starts_with("--fd=900000: no such open descriptor"), "{error}");
}

#[test]
fn an_inherited_socket_refuses_options_of_a_socket_file() {
    use std::os::fd::IntoRawFd;
    let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let number = ours.into_raw_fd();
    let error = ConfigSource::default().add_vm_fd("vm", number, "perm=0600").unwrap_err().to_string();
    let why = "the socket was opened by the program that passed it; drop perm=";
    assert_eq!(error, format!("--fd={number} --vm-options perm=0600: {why}"));
}

#[test]
fn summary_shows_every_setting() {
    let mut source = command_line(&["h=tap:t0,vlan=5"]);
    source.control = Some("/tmp/c.sock".into());
    let config = Config::merge(source, ConfigSource::default()).unwrap();
    assert_eq!(
        config.to_string(),
        "workers  1 (not pinned)\npoll     adaptive\ncontrol  /tmp/c.sock\nvlan-limit 1\nfragments normal\n\
         port     h=tap:t0,vlan=5,mac-limit=4096,queues=1,csum=on,tso=on\n"
    );
}
