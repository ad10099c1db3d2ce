//! *Close now*, without a script: what a page says before it is done, and after.

use jit_controller::store::closings;

use super::Browser;
use crate::{api::Site, databases::Database};

on_each_database! {
    an_administrator_sees_what_ends_before_it_is_done_and_how_far_it_is_after,
}

/// The fields of a form, some of them filled in.
fn filled(mut fields: Vec<(String, String)>, typed: &[(&str, &str)]) -> Vec<(String, String)> {
    fields.retain(|(name, _)| name != "form_key" && !typed.iter().any(|(other, _)| other == name));
    fields.extend(typed.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())));
    fields
}

fn borrowed(fields: &[(String, String)]) -> Vec<(&str, &str)> {
    fields.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect()
}

async fn an_administrator_sees_what_ends_before_it_is_done_and_how_far_it_is_after(
    database: Database,
) {
    let site = Site::new(database).await;
    let (root, bo) = (Browser::of(&site, "root").await, Browser::of(&site, "bo").await);
    assert!(root.get("/closings").await.ok().text.contains("There was none"));
    let form = root.get("/closings/new").await.ok().form("/closings/confirm");
    let shown = root.post("/closings/confirm", &borrowed(&filled(form.clone(), &[]))).await;
    assert_eq!(shown.status, 422);
    assert!(shown.text.contains("reason is empty"), "{}", shown.text);
    let typed = [("reason", "stolen <key>")];
    let shown = root.post("/closings/confirm", &borrowed(&filled(form.clone(), &typed))).await.ok();
    for words in ["everything that was granted", "2 hosts", "every host that comes later"] {
        assert!(shown.text.contains(words), "{words}: {}", shown.text);
    }
    let before = site.store().closings("", "", 10).await.unwrap();
    assert!(before.is_empty(), "a page that asks does nothing: {before:?}");
    let fields = filled(shown.form("/closings"), &[]);
    let made = root.post("/closings", &borrowed(&fields)).await.goes_to().to_owned();
    let shown = root.get(&made).await.ok();
    assert!(shown.text.contains("0 of 2 hosts have carried it out"), "{}", shown.text);
    assert!(shown.text.contains("is being signed") && shown.text.contains("web-1"));
    let id = made.rsplit_once('/').unwrap().1;
    let mut tx = site.store().begin().await.unwrap();
    closings::set_signed(&mut tx, id, Err("no_revocation_keys: none"), 1).await.unwrap();
    tx.commit().await.unwrap();
    assert!(root.get(&made).await.ok().text.contains("no_revocation_keys"));
    assert!(root.get("/closings").await.ok().text.contains("the signer refuses it"));
    // On one host, of one person.
    let typed = [
        ("reason", "left us"),
        ("place", "some"),
        ("hosts", "web-1"),
        ("whose", "requester"),
        ("requester", "ana@example.org"),
    ];
    let shown = root.post("/closings/confirm", &borrowed(&filled(form, &typed))).await.ok();
    assert!(shown.text.contains("everything that ana@example.org was granted"));
    assert!(shown.text.contains("1 host<") && !shown.text.contains("comes later"));
    // Nobody else has these pages.
    for path in ["/closings", "/closings/new", &made] {
        assert_eq!(bo.get(path).await.status, 403, "{path}");
    }
    assert_eq!(bo.post("/closings", &borrowed(&fields)).await.status, 403);
    assert_eq!(site.store().closings("", "", 10).await.unwrap().len(), 1);
}
