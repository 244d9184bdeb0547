use dockpack::archive::*;
use dockpack::graph::*;
use dockpack::ops::{load, save::SavePlan};
use dockpack::store::*;
struct P;
impl dockpack::progress::Observer for P {
    fn on(&self, e: dockpack::progress::Event<'_>) {
        if let dockpack::progress::Event::Warning(w) = e {
            eprintln!("W {w}")
        }
    }
}
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let a: Vec<String> = std::env::args().collect();
    let root = std::path::Path::new(&a[2]);
    if a[1] == "save" {
        let store = Store::open(root, None)?;
        let snap = store.snapshot()?;
        for f in &snap.findings {
            eprintln!("{f:?}");
        }
        let sel = select_all(&snap);
        let mut f = dockpack::fsx::OutputFile::create(std::path::Path::new(&a[3]))?;
        let c = if a[3].ends_with("zst") {
            Compression::Zstd(ZstdOptions { level: 3, window: 27, threads: 2 })
        } else if a[3].ends_with("gz") {
            Compression::Gzip
        } else {
            Compression::Plain
        };
        let r =
            SavePlan::new(&snap, store.driver(), &sel)?.execute(&store, ArchiveWriter::tar(&mut f, c)?, &a[3], &P)?;
        f.publish()?;
        println!("{r:?}");
    } else {
        let mut ar = ArchiveReader::new(Box::new(std::fs::File::open(&a[3])?), &a[3])?;
        let m = ar.metadata()?;
        let store = match Store::open(root, None) {
            Ok(s) => s,
            Err(_) => Store::open_fresh(root, &m.index.driver)?,
        };
        let lock = WriteLock::take(&store)?;
        println!("recovered {:?}", load::recover(&store, &lock)?.is_some());
        let (plan, snap) = load::LoadPlan::make(&store, &m, load::select(&m.index, &a[4..].to_vec())?)?;
        let r = plan.execute(&store, &snap, &lock, &m, &mut ar, &P)?;
        println!("{r:?}");
        lock.release();
    }
    Ok(())
}
