//! Downloads as stories: a datastore in memory, a disk that can lose power.

use std::cell::RefCell;
use std::io::ErrorKind;

use holdfast_persist::{MemDisk, PersistLayout};

use super::*;
use crate::volumemgr::testing::{MemFetcher, content_tree};

const URL: &str = "http://store/images/v1.qcow2";

struct Story {
    disk: MemDisk,
    layout: PersistLayout,
    store: MemFetcher,
    heard: RefCell<Vec<Progress>>,
}

impl Story {
    fn new() -> Self {
        let story = Story {
            disk: MemDisk::new(),
            layout: PersistLayout::new("/persist"),
            store: MemFetcher::new(),
            heard: RefCell::default(),
        };
        story.layout.prepare(&story.disk).expect("a persist directory");
        story
    }

    fn download<T>(&self, work: impl FnOnce(&Download<'_>) -> T) -> T {
        work(&Download {
            disk: &self.disk,
            layout: &self.layout,
            fetcher: &self.store,
            is_cancelled: &|| false,
            report: &|progress| self.heard.borrow_mut().push(progress),
        })
    }

    fn fetch(&self, content: &Content) -> Result<Fetched, DownloadError> {
        self.download(|download| download.ensure(content))
    }

    fn files(&self) -> Vec<PathBuf> {
        self.disk
            .all_files()
            .into_iter()
            .filter(|path| path.starts_with(self.layout.downloads_dir()))
            .collect()
    }

    fn opened_from(&self) -> Vec<u64> {
        self.store.openings().into_iter().map(|(_, from)| from).collect()
    }
}

fn image() -> Vec<u8> {
    (0..3 * BLOCK_BYTES + 17).map(|at| (at % 251) as u8).collect()
}

fn sha256_of(bytes: &[u8]) -> String {
    hex(Sha256::new_with_prefix(bytes))
}

fn content(sha256: &str) -> Content {
    Content {
        content_tree: content_tree(1),
        urls: vec![URL.into()],
        sha256: sha256.into(),
        max_size_bytes: 0,
    }
}

#[test]
fn content_is_fetched_verified_and_kept_whole() {
    let story = Story::new();
    story.store.put(URL, image());
    let fetched = story.fetch(&content(&sha256_of(&image()))).expect("fetched");
    assert_eq!((fetched.size_bytes, fetched.sha256), (image().len() as u64, sha256_of(&image())));
    story.disk.crash();
    assert_eq!(story.disk.read(&fetched.path).expect("durable"), image());
    assert_eq!(story.files(), std::slice::from_ref(&fetched.path));
    assert!(story.heard.borrow().contains(&Progress::Fetching { percent: 33 }));

    story.store.set_down(true);
    assert_eq!(story.fetch(&content(&sha256_of(&image()))).expect("there already").path, fetched.path);
    story.download(|download| download.remove(&content_tree(1))).expect("removed");
    assert!(story.files().is_empty());
}

#[test]
fn after_a_break_fetching_goes_on_where_it_was() {
    let story = Story::new();
    story.store.put(URL, image());
    story.store.break_after(&[BLOCK_BYTES + 5, 10]);
    story.fetch(&content(&sha256_of(&image()))).expect("fetched");
    assert_eq!(story.opened_from(), [0, BLOCK_BYTES as u64 + 5, BLOCK_BYTES as u64 + 15]);
}

#[test]
fn after_a_restart_the_part_is_resumed_and_the_digest_covers_all_of_it() {
    let story = Story::new();
    story.store.put(URL, image());
    story.store.break_after(&[1000, 0]);
    let broke = story.fetch(&content(&sha256_of(&image()))).expect_err("nothing new came");
    assert!(matches!(broke, DownloadError::Broke { at_bytes: 1000, .. }), "{broke}");
    story.fetch(&content(&sha256_of(&image()))).expect("fetched");
    assert_eq!(story.opened_from(), [0, 1000, 1000]);
}

#[test]
fn a_server_that_ignores_ranges_sends_all_of_it_again() {
    let story = Story::new();
    story.store.put(URL, image());
    story.store.refuse_ranges(URL);
    story.store.break_after(&[1000]);
    let fetched = story.fetch(&content(&sha256_of(&image()))).expect("fetched");
    assert_eq!(story.disk.read(&fetched.path).expect("whole"), image());
}

#[test]
fn a_wrong_digest_is_named_with_the_right_one_and_nothing_is_kept() {
    let story = Story::new();
    story.store.put(URL, "something else");
    let expected = sha256_of(&image());
    let error = story.fetch(&content(&expected)).expect_err("another content");
    let text = error.to_string();
    assert!(text.contains(&expected) && text.contains(&sha256_of(b"something else")), "{text}");
    assert!(text.contains(&content_tree(1).to_string()) && error.retry_condition().is_some());
    assert!(story.files().is_empty());
}

#[test]
fn a_part_that_a_power_cut_tore_is_fetched_again_without_an_error() {
    let story = Story::new();
    story.store.put(URL, image());
    story.disk.write_at(&part_file(&story.layout, &content_tree(1)), 0, &[0; 5000]).expect("a torn part");
    let fetched = story.fetch(&content(&sha256_of(&image()))).expect("fetched");
    assert_eq!(story.disk.read(&fetched.path).expect("whole"), image());
    assert_eq!(story.opened_from(), [5000, 0]);
}

#[test]
fn a_part_longer_than_the_content_is_dropped() {
    let story = Story::new();
    story.store.put(URL, "short");
    story.disk.write_at(&part_file(&story.layout, &content_tree(1)), 0, &[0; 5000]).expect("an old part");
    story.fetch(&content(&sha256_of(b"short"))).expect("fetched");
}

#[test]
fn without_a_digest_nothing_old_is_trusted() {
    let story = Story::new();
    story.store.put(URL, "fresh");
    story.disk.write_at(&part_file(&story.layout, &content_tree(1)), 0, b"ol").expect("an old part");
    let fetched = story.fetch(&content("")).expect("fetched");
    assert_eq!(story.disk.read(&fetched.path).expect("whole"), b"fresh");
}

#[test]
fn too_much_content_is_refused_whether_or_not_the_server_says_so() {
    let story = Story::new();
    story.store.put(URL, image());
    let limited = Content { max_size_bytes: 1000, ..content(&sha256_of(&image())) };
    let error = story.fetch(&limited).expect_err("too large");
    assert!(error.to_string().contains("1000 bytes") && error.retry_condition().is_none(), "{error}");
    assert!(story.files().is_empty());
    let exact = Content { max_size_bytes: image().len() as u64, ..content(&sha256_of(&image())) };
    story.fetch(&exact).expect("just fits");
}

#[test]
fn datastores_are_tried_in_order() {
    let story = Story::new();
    story.store.put("http://second/v1", "content");
    let urls = vec![URL.to_owned(), "http://second/v1".to_owned()];
    story.fetch(&Content { urls, ..content(&sha256_of(b"content")) }).expect("the second has it");

    let story = Story::new();
    let error = story.fetch(&content("")).expect_err("nobody has it");
    assert!(holdfast_types::error_chain(&error).contains("status 404"), "{error}");
    let nowhere = story.fetch(&Content { urls: vec![], ..content("") }).expect_err("no datastore");
    assert!(matches!(nowhere, DownloadError::NoSource { .. }) && nowhere.retry_condition().is_none());
}

#[test]
fn an_empty_file_is_content_too() {
    let story = Story::new();
    story.store.put(URL, "");
    let fetched = story.fetch(&content(&sha256_of(b""))).expect("fetched");
    assert_eq!(fetched.size_bytes, 0);
    assert!(story.disk.metadata(&fetched.path).expect("a look").is_some());
}

#[test]
fn the_power_may_be_cut_after_every_call() {
    let sha256 = sha256_of(&image());
    let whole = Story::new();
    whole.store.put(URL, image());
    let before = whole.disk.call_count();
    whole.fetch(&content(&sha256)).expect("fetched");
    for cut in 1..=whole.disk.call_count() - before {
        let story = Story::new();
        story.store.put(URL, image());
        story.disk.cut_power_at(cut);
        story.fetch(&content(&sha256)).expect_err("the power was cut");
        story.disk.crash();
        let fetched = story.fetch(&content(&sha256)).expect("fetched after the cut");
        assert_eq!(story.disk.read(&fetched.path).expect("whole"), image(), "cut {cut}");
    }
}

#[test]
fn a_full_disk_is_told_apart() {
    let story = Story::new();
    story.store.put(URL, image());
    story.disk.set_capacity(1000);
    let error = story.fetch(&content("")).expect_err("no room");
    assert!(matches!(&error, DownloadError::Disk { source, .. } if source.kind() == ErrorKind::StorageFull));
    assert!(error.retry_condition().is_some_and(|condition| condition.contains("space")), "{error}");
}

#[test]
fn files_in_the_downloads_directory_are_known_by_name() {
    let id = content_tree(1).to_string();
    assert_eq!(content_tree_of(&id), Some(content_tree(1)));
    assert_eq!(content_tree_of(&format!("{id}.part")), Some(content_tree(1)));
    assert_eq!(content_tree_of("notes.txt"), None);
}
