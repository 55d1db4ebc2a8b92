-- The tables of schema version 1, as that version made them on this database, with one attempt at work.
CREATE TABLE attempts ( id TEXT NOT NULL, kind TEXT NOT NULL, work_key TEXT, epoch BIGINT NOT NULL, target TEXT, flow_run TEXT, root_run TEXT, deployment TEXT, title TEXT NOT NULL, request TEXT NOT NULL, host TEXT NOT NULL, boot TEXT NOT NULL, namespace BIGINT NOT NULL, pid BIGINT NOT NULL, started BIGINT NOT NULL, alone BOOLEAN NOT NULL, state TEXT NOT NULL, created_at DOUBLE PRECISION NOT NULL, renewed_at DOUBLE PRECISION NOT NULL, progressed_at DOUBLE PRECISION, ended_at DOUBLE PRECISION, stage TEXT, done DOUBLE PRECISION, total DOUBLE PRECISION, unit TEXT, records TEXT NOT NULL, waiting_for TEXT, slot_at DOUBLE PRECISION, groups TEXT NOT NULL, failure TEXT, error_reason TEXT, marked_stuck_at DOUBLE PRECISION, PRIMARY KEY (id) );
CREATE INDEX attempts_ended_at ON attempts (ended_at);
CREATE INDEX attempts_flow_run ON attempts (flow_run);
CREATE INDEX attempts_root_run ON attempts (root_run);
CREATE INDEX attempts_state ON attempts (state);
CREATE TABLE hosts ( host TEXT NOT NULL, PRIMARY KEY (host) );
CREATE TABLE publications ( folder TEXT NOT NULL, work_key TEXT NOT NULL, published_at DOUBLE PRECISION NOT NULL, PRIMARY KEY (folder) );
CREATE TABLE recoveries ( root_run TEXT NOT NULL, consecutive INTEGER NOT NULL, reached_stages INTEGER NOT NULL, reached_done DOUBLE PRECISION NOT NULL, last_at DOUBLE PRECISION NOT NULL, scheduled BOOLEAN NOT NULL, parked_at DOUBLE PRECISION, PRIMARY KEY (root_run) );
CREATE TABLE schema_version ( version INTEGER NOT NULL );
CREATE TABLE works ( work_key TEXT NOT NULL, epoch BIGINT NOT NULL, holder TEXT, PRIMARY KEY (work_key) );
INSERT INTO schema_version VALUES (1);
INSERT INTO works (work_key, epoch, holder) VALUES ('aaaaaaaa', 3, 'attempt');
INSERT INTO attempts (id, kind, work_key, epoch, flow_run, title, request, host, boot, namespace, pid, started, alone,
  state, created_at, renewed_at, records, groups)
VALUES ('attempt', 'ingest', 'aaaaaaaa', 3, 'flow-run', 'http://host/film.mp4', '{}', 'host', 'boot', 1, 2, 3, false,
  'running', 1000.5, 1001.5, '{}', '[]');
