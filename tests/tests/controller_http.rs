//! A node's link and a driver's requests against the real controller over the loopback.

use std::io::Read;
use std::time::Duration;

use holdfast_agents::wire::config::{ConfigRequest, SnapshotType};
use holdfast_agents::wire::info::z_info_msg::InfoContent;
use holdfast_agents::wire::info::{ZInfoApp, ZInfoMsg, ZSwState};
use holdfast_agents::wire::{ControllerLink, Fetched, HttpLink, LinkError, LinkSettings};
use holdfast_tests::controller::{DeviceConfig, Download, Server, ServerSettings, StartError};
use uuid::Uuid;

const DEVICE: Uuid = Uuid::from_u128(0xd);
const DB: Uuid = Uuid::from_u128(0xdb);
const S1: Uuid = Uuid::from_u128(0x51);

fn link(server: &Server) -> HttpLink {
    HttpLink::new(&server.url(), DEVICE).unwrap()
}

fn nothing_in_hand() -> ConfigRequest {
    ConfigRequest::default()
}

fn in_hand(hash: &str) -> ConfigRequest {
    ConfigRequest { config_hash: hash.into(), ..Default::default() }
}

fn one_app() -> DeviceConfig {
    let mut config = DeviceConfig::new(DEVICE);
    config.add_app(DB, "db");
    config
}

fn app_report(version: &str, state: ZSwState) -> ZInfoMsg {
    let app = ZInfoApp {
        app_id: DB.to_string(),
        app_version: version.into(),
        state: state as i32,
        ..Default::default()
    };
    ZInfoMsg { dev_id: DEVICE.to_string(), info_content: Some(InfoContent::Ainfo(app)), ..Default::default() }
}

/// A driver's request: the status and the text of the answer.
fn ask(method: &str, url: &str, body: &str) -> (u16, String) {
    let agent = ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().new_agent();
    let request = ureq::http::Request::builder().method(method).uri(url).body(body.to_owned()).unwrap();
    let mut answer = agent.run(request).unwrap();
    (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap())
}

fn get(url: &str) -> (u16, String) {
    ask("GET", url, "")
}

#[test]
fn a_node_fetches_its_configuration_once_and_again_when_it_changes() {
    let server = Server::for_test(None);
    let link = link(&server);
    let error = link.fetch_config(&nothing_in_hand()).unwrap_err();
    assert!(matches!(error, LinkError::Status { status: 404, .. }), "{error}");
    assert!(
        error.to_string().contains("no device 00000000-0000-0000-0000-00000000000d is known here"),
        "{error}"
    );

    server.set_config(DEVICE, one_app()).unwrap();
    let Fetched::Config { response, .. } = link.fetch_config(&nothing_in_hand()).unwrap() else {
        panic!("not told")
    };
    assert_eq!(response.config.as_ref(), Some(one_app().message()));
    assert_eq!(link.fetch_config(&in_hand(&response.config_hash)).unwrap(), Fetched::Unchanged);

    server
        .edit_config(DEVICE, |config| {
            config.app(DB).request_snapshot(S1, SnapshotType::AppUpdate);
        })
        .unwrap();
    let Fetched::Config { response, .. } = link.fetch_config(&in_hand(&response.config_hash)).unwrap() else {
        panic!("not told of the change")
    };
    assert_eq!(response.config.unwrap().apps[0].snapshot.as_ref().unwrap().snapshots[0].id, S1.to_string());
}

#[test]
fn a_body_that_is_no_configuration_comes_back_as_received() {
    let server = Server::for_test(None);
    server.set_config(DEVICE, one_app()).unwrap();
    server.faults().config_body = Some(b"<html>".to_vec());
    match link(&server).fetch_config(&nothing_in_hand()).unwrap() {
        Fetched::Undecodable { raw, error } => {
            assert_eq!(raw, b"<html>");
            assert_eq!(error.to_string(), "6 bytes do not decode as ConfigResponse");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_answer_beyond_the_limit_is_refused_by_size() {
    let server = Server::for_test(None);
    server.set_config(DEVICE, one_app()).unwrap();
    server.faults().config_body = Some(vec![0; 4097]);
    let settings = LinkSettings { answer_limit_bytes: 4096, ..Default::default() };
    let link = HttpLink::with_settings(&server.url(), DEVICE, settings).unwrap();
    let error = link.fetch_config(&nothing_in_hand()).unwrap_err();
    assert!(matches!(error, LinkError::TooLarge { limit_bytes: 4096, .. }), "{error:?}");
}

#[test]
fn a_controller_that_is_away_or_unwell_is_an_error_until_it_is_back() {
    let server = Server::for_test(None);
    server.set_config(DEVICE, one_app()).unwrap();
    let link = link(&server);
    assert!(link.fetch_config(&nothing_in_hand()).is_ok());

    server.faults().offline = true;
    let error = link.fetch_config(&nothing_in_hand()).unwrap_err();
    assert!(matches!(error, LinkError::Unreachable { .. } | LinkError::Protocol { .. }), "{error:?}");

    *server.faults() = Default::default();
    server.faults().status = Some(503);
    let error = link.post_info(&app_report("1", ZSwState::Running)).unwrap_err();
    assert!(error.to_string().ends_with("answered with status 503: refused on purpose"), "{error}");

    *server.faults() = Default::default();
    assert!(link.fetch_config(&nothing_in_hand()).is_ok());
}

#[test]
fn reports_are_listed_in_order_and_the_newest_of_each_object_by_itself() {
    let server = Server::for_test(None);
    let link = link(&server);
    assert!(link.post_info(&app_report("1", ZSwState::Booting)).is_err());
    server.set_config(DEVICE, one_app()).unwrap();
    link.post_info(&app_report("1", ZSwState::Booting)).unwrap();
    link.post_info(&app_report("1", ZSwState::Running)).unwrap();

    let info = format!("{}/admin/device/{DEVICE}/info", server.url());
    let (status, lines) = get(&info);
    let states: Vec<_> = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["ainfo"]["state"].clone())
        .collect();
    assert_eq!((status, states), (200, vec!["BOOTING".into(), "RUNNING".into()]));
    let (_, latest) = get(&format!("{info}?latest"));
    assert_eq!(latest.lines().count(), 1);
    assert!(latest.contains("RUNNING"));
    let (_, list) = get(&format!("{}/admin/device", server.url()));
    assert!(list.contains("\"reports\": 2"), "{list}");
}

#[test]
fn a_wait_ends_with_what_it_waited_for_or_with_what_was_reported_instead() {
    let server = Server::for_test(None);
    server.set_config(DEVICE, one_app()).unwrap();
    let node = link(&server);
    let poster = std::thread::spawn(move || {
        node.post_info(&app_report("1", ZSwState::Booting)).unwrap();
        node.post_info(&app_report("1", ZSwState::Running)).unwrap();
    });
    let running = |device: &holdfast_tests::controller::Device| {
        device.app(DB).filter(|app| app.state() == ZSwState::Running).map(|app| app.app_version.clone())
    };
    let version = server.wait_for(DEVICE, "db running", Duration::from_secs(10), running).unwrap();
    assert_eq!(version, "1");
    poster.join().unwrap();

    let halted = |device: &holdfast_tests::controller::Device| {
        device.app(DB).filter(|app| app.state() == ZSwState::Halted).map(drop)
    };
    let error =
        server.wait_for(DEVICE, "db halted", Duration::from_millis(20), halted).unwrap_err().to_string();
    assert!(error.starts_with("waited 20ms for db halted, in vain"), "{error}");
    assert!(error.contains("\"state\":\"RUNNING\""), "{error}");
}

#[test]
fn a_driver_sets_and_reads_configurations_as_json_and_is_told_what_is_wrong() {
    let server = Server::for_test(None);
    let url = format!("{}/admin/device/{DEVICE}/config", server.url());
    assert_eq!(get(&url).0, 404);

    let (status, text) = ask("PUT", &url, r#"{"apps": [{"activate": "perhaps"}]}"#);
    assert_eq!(status, 400);
    assert!(text.starts_with("EdgeDevConfig.apps[0].activate: "), "{text}");
    let (status, text) = ask("PUT", &url, r#"{"apps": "#);
    assert_eq!(status, 400);
    assert!(text.starts_with("not JSON: EOF while parsing"), "{text}");
    assert_eq!(get(&url).0, 404);

    let (status, _) = ask("PUT", &url, r#"{"deviceName": "edge"}"#);
    assert_eq!(status, 200);
    assert_eq!(get(&url), (200, "{\n  \"deviceName\": \"edge\"\n}\n".to_owned()));

    let (status, text) = get(&format!("{}/admin/device/..%2Fx/config", server.url()));
    assert_eq!((status, text.as_str()), (400, "`../x` is not a device's UUID\n"));
    assert_eq!(ask("POST", &format!("{}/api/v2/edgedevice/ping", server.url()), "").0, 200);
    let info = format!("{}/api/v2/edgedevice/id/{DEVICE}/info", server.url());
    assert_eq!(
        ask("POST", &info, "no report"),
        (400, "9 bytes do not decode as ZInfoMsg: ".to_owned() + &reason())
    );
}

/// What prost says of the same bytes.
fn reason() -> String {
    let error = holdfast_agents::wire::codec::decode_info(b"no report").unwrap_err();
    format!("{}\n", error.source)
}

#[test]
fn a_restarted_controller_remembers_and_a_taken_port_is_named() {
    let state = tempfile::tempdir().unwrap();
    let settings = ServerSettings { state: Some(state.path().to_owned()), ..Default::default() };
    let server = Server::start(&settings).unwrap();
    server.set_config(DEVICE, one_app()).unwrap();
    link(&server).post_info(&app_report("1", ZSwState::Running)).unwrap();

    let second = ServerSettings { listen: server.address().to_string(), ..settings.clone() };
    let error = Server::start(&second).unwrap_err();
    assert!(matches!(&error, StartError::Listen { .. }), "{error:?}");
    assert_eq!(error.to_string(), format!("cannot listen on {}", server.address()));
    server.stop();

    let server = Server::start(&settings).unwrap();
    assert_eq!(server.core().config(DEVICE).unwrap(), one_app().message());
    assert_eq!(server.core().device(DEVICE).unwrap().app(DB).unwrap().state(), ZSwState::Running);
}

#[test]
fn a_broken_download_goes_on_from_where_it_stopped() {
    let files = tempfile::tempdir().unwrap();
    let content: Vec<u8> = (0..200_000u32).map(|n| (n % 251) as u8).collect();
    std::fs::write(files.path().join("image"), &content).unwrap();
    let server = Server::for_test(Some(files.path()));
    server.faults().break_download("image", 100_000);
    let url = format!("{}/files/image", server.url());

    let agent = ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().new_agent();
    let mut received = Vec::new();
    let mut answer = agent.get(&url).call().unwrap();
    assert_eq!(answer.headers()["content-length"], "200000");
    assert!(answer.body_mut().as_reader().read_to_end(&mut received).is_err());
    assert_eq!(received.len(), 100_000);

    let mut answer = agent.get(&url).header("range", format!("bytes={}-", received.len())).call().unwrap();
    assert_eq!(answer.status(), 206);
    assert_eq!(answer.headers()["content-range"], "bytes 100000-199999/200000");
    answer.body_mut().as_reader().read_to_end(&mut received).unwrap();
    assert!(received == content);

    let answer = agent.get(&url).header("range", "bytes=200000-").call().unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["content-range"]),
        (416, &"bytes */200000".parse().unwrap())
    );
    let mut answer =
        agent.get(&url).header("range", "bytes=5-").header("if-range", "\"other\"").call().unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.body_mut().read_to_vec().unwrap().len(), 200_000);

    let got = |from_bytes, status| Download { path: "image".into(), from_bytes, status };
    assert_eq!(server.downloads(), [got(0, 200), got(100_000, 206), got(0, 416), got(0, 200)]);
}

#[test]
fn files_outside_the_folder_do_not_exist() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("files")).unwrap();
    std::fs::write(folder.path().join("secret"), "s").unwrap();
    let server = Server::for_test(Some(&folder.path().join("files")));
    for path in ["..%2Fsecret", "%2e%2e/secret", "none", ""] {
        assert_eq!(get(&format!("{}/files/{path}", server.url())).0, 404, "{path}");
    }
    let none = Server::for_test(None);
    assert_eq!(
        get(&format!("{}/files/x", none.url())),
        (404, "this controller serves no files\n".to_owned())
    );
}
