//! What the controller says in the story: the application, its volumes, its images.

use std::path::Path;

use anyhow::Context;
use holdfast_agents::wire::config::{Format, SnapshotType};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::controller::{AppEdit, DeviceConfig, Server};
use crate::guest::{self, Guest};

pub const DEVICE: Uuid = Uuid::from_u128(0xd000_0000_0000_4000_8000_0000_0000_0001);
pub const APP: Uuid = Uuid::from_u128(0xa000_0000_0000_4000_8000_0000_0000_0001);
pub const APP_NAME: &str = "db";
pub const IMAGE: Uuid = Uuid::from_u128(0xb000_0000_0000_4000_8000_0000_0000_0001);
pub const DATA: Uuid = Uuid::from_u128(0xb000_0000_0000_4000_8000_0000_0000_0002);
pub const SNAPSHOT: Uuid = Uuid::from_u128(0xc000_0000_0000_4000_8000_0000_0000_0001);
const STORE: Uuid = Uuid::from_u128(0xe000_0000_0000_4000_8000_0000_0000_0001);

const IMAGE_SIZE_BYTES: usize = 16 << 20;
const DATA_SIZE_BYTES: u64 = 16 << 20;
const MEMORY_KIB: u32 = 192 << 10;

fn content_tree(version: u8) -> Uuid {
    Uuid::from_u128(0xf000_0000_0000_4000_8000_0000_0000_0000 + u128::from(version))
}

/// An image that the controller serves.
#[derive(Debug, Clone)]
pub struct Image {
    pub name: String,
    pub sha256: String,
}

/// Makes the image of a version in the folder that is served.
pub fn make_image(files: &Path, version: u8) -> anyhow::Result<Image> {
    let name = format!("image-{version}.qcow2");
    let path = files.join(&name);
    let content = guest::image_content(&version.to_string(), IMAGE_SIZE_BYTES);
    guest::make_qcow2(&path, Some(&content)).context("cannot make an image")?;
    let digest = Sha256::digest(std::fs::read(&path)?);
    let sha256 = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Image { name, sha256 })
}

/// The controller, in the words of this story.
#[derive(Debug)]
pub struct Orders<'a> {
    pub controller: &'a Server,
}

impl Orders<'_> {
    pub fn nothing(&self) -> anyhow::Result<()> {
        self.edit(|_| {})
    }

    /// Version 1: the image volume from its content tree, the blank data volume, the guest's kernel.
    pub fn deploy(&self, image: &Image, kernel: &Guest) -> anyhow::Result<()> {
        let address = self.controller.address().to_string();
        self.edit(|device| {
            device.add_datastore(STORE, &address, "files");
            add_content(device, 1, image);
            device.add_download_volume(IMAGE, content_tree(1), 0).name("image");
            device.add_blank_volume(DATA, DATA_SIZE_BYTES).name("data");
            let app = device.add_app(APP, APP_NAME).version("1").memory_kib(MEMORY_KIB);
            app.kernel(kernel.kernel.display())
                .ramdisk(kernel.initrd.display())
                .cmdline(guest::KERNEL_OPTIONS)
                .volume(IMAGE, 1)
                .volume(DATA, 1)
                .max_snapshots(2);
        })
    }

    /// One configuration that asks for a snapshot and brings version 2: the image is replaced, the data stays.
    pub fn snapshot_and_update(&self, image: &Image) -> anyhow::Result<()> {
        self.edit(|device| {
            add_content(device, 2, image);
            device.app(APP).request_snapshot(SNAPSHOT, SnapshotType::AppUpdate).version("2");
            device.replace_volume(IMAGE, content_tree(2)).expect("the image is listed");
        })
    }

    pub fn roll_back(&self) -> anyhow::Result<()> {
        self.edit_app(|app| app.roll_back(SNAPSHOT))
    }

    pub fn restart(&self) -> anyhow::Result<()> {
        self.edit_app(|app| app.restart())
    }

    pub fn drop_snapshot(&self) -> anyhow::Result<()> {
        self.edit_app(|app| app.drop_snapshot(SNAPSHOT))
    }

    /// The application goes, and all that was listed for it.
    pub fn remove_everything(&self) -> anyhow::Result<()> {
        self.edit(|device| {
            device.remove_app(APP);
            device.remove_volume(IMAGE);
            device.remove_volume(DATA);
            device.remove_content_tree(content_tree(1));
            device.remove_content_tree(content_tree(2));
            device.remove_datastore(STORE);
        })
    }

    fn edit_app(&self, edit: impl FnOnce(AppEdit<'_>) -> AppEdit<'_>) -> anyhow::Result<()> {
        self.edit(|device| {
            edit(device.app(APP));
        })
    }

    fn edit(&self, edit: impl FnOnce(&mut DeviceConfig)) -> anyhow::Result<()> {
        self.controller.edit_config(DEVICE, edit).context("the controller keeps no configuration")
    }
}

fn add_content(device: &mut DeviceConfig, version: u8, image: &Image) {
    let tree = device.add_content_tree(content_tree(version), STORE, &image.name, Format::Qcow2);
    tree.sha256(&image.sha256).max_size_bytes(64 << 20);
}
