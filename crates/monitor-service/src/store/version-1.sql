-- A store as version 1 made it: two hours and a minute and a half of two series, rolled up as far as they were then.
PRAGMA user_version = 1;
CREATE TABLE alerts (number INTEGER PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE events (id INTEGER PRIMARY KEY, alert TEXT NOT NULL, body TEXT NOT NULL);
CREATE INDEX events_of_alert ON events (alert, id);
CREATE TABLE deliveries (event INTEGER NOT NULL, channel TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (event, channel));
CREATE TABLE rules (name TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE silences (id TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE series (id INTEGER PRIMARY KEY, metric TEXT NOT NULL, labels TEXT NOT NULL, UNIQUE (metric, labels));
CREATE TABLE tier_10s (at INTEGER, series INTEGER, n INTEGER, min REAL, max REAL, mean REAL, last REAL, PRIMARY KEY (at, series)) WITHOUT ROWID;
CREATE TABLE tier_1m (at INTEGER, series INTEGER, n INTEGER, min REAL, max REAL, mean REAL, last REAL, PRIMARY KEY (at, series)) WITHOUT ROWID;
CREATE TABLE tier_1h (at INTEGER, series INTEGER, n INTEGER, min REAL, max REAL, mean REAL, last REAL, PRIMARY KEY (at, series)) WITHOUT ROWID;
INSERT INTO series (id, metric, labels) VALUES
  (1, 'm', '{"endpoint":"e","kind":"grows","service":"s"}'),
  (130, 'm', '{"endpoint":"e","kind":"rests","service":"s"}');
-- One grows by 1 a second; max is last, and so it is not stored.
WITH RECURSIVE step(at) AS (SELECT 1728000000 UNION ALL SELECT at + 10 FROM step WHERE at < 1728007280)
  INSERT INTO tier_10s SELECT at, 1, 10, at - 1728000000, NULL, at - 1728000000 + 4.5, at - 1728000000 + 9 FROM step;
WITH RECURSIVE step(at) AS (SELECT 1728000000 UNION ALL SELECT at + 10 FROM step WHERE at < 1728007280)
  INSERT INTO tier_10s SELECT at, 130, 10, NULL, NULL, NULL, 0.1 FROM step;
WITH RECURSIVE step(at) AS (SELECT 1728000000 UNION ALL SELECT at + 60 FROM step WHERE at < 1728007140)
  INSERT INTO tier_1m SELECT at, 1, 60, at - 1728000000, NULL, at - 1728000000 + 29.5, at - 1728000000 + 59 FROM step;
WITH RECURSIVE step(at) AS (SELECT 1728000000 UNION ALL SELECT at + 60 FROM step WHERE at < 1728007140)
  INSERT INTO tier_1m SELECT at, 130, 60, NULL, NULL, NULL, 0.1 FROM step;
INSERT INTO tier_1h VALUES
  (1728000000, 1, 3600, 0, NULL, 1799.5, 3599), (1728000000, 130, 3600, NULL, NULL, NULL, 0.1),
  (1728003600, 1, 3600, 3600, NULL, 5399.5, 7199), (1728003600, 130, 3600, NULL, NULL, NULL, 0.1);
