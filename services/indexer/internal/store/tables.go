package store

import "sluice/services/indexer/internal/derive"

// column is one column of a table with the value that a row has for it. Texts
// are sent as text arrays; cast names another type to cast each element to.
type column[R any] struct {
	name string
	cast string
	of   func(R) *string
}

// edgeTable describes the table of a kind that is unique by a key.
type edgeTable struct {
	name string
	// first and second are the columns of the key, in the order of derive.Key.
	first, second string
	// subject is the column that holds what the record is about.
	subject string
	// read are the expressions for subjectCid, via, viaCid, list, handle and
	// displayName.
	read    string
	columns []column[*edgeRow]
}

func nullable(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

var edgeCommon = []column[*edgeRow]{
	{name: "uri", of: func(e *edgeRow) *string { return &e.URI }},
	{name: "cid", of: func(e *edgeRow) *string { return &e.CID }},
	{name: "creator", of: func(e *edgeRow) *string { return &e.Creator }},
	{name: `"createdAt"`, of: func(e *edgeRow) *string { return &e.CreatedAt }},
	{name: `"indexedAt"`, of: func(e *edgeRow) *string { return &e.IndexedAt }},
}

func edgeColumns(subject string, more ...column[*edgeRow]) []column[*edgeRow] {
	cols := append([]column[*edgeRow]{}, edgeCommon...)
	cols = append(cols, column[*edgeRow]{name: subject, of: func(e *edgeRow) *string { return &e.Row.Subject }})
	return append(cols, more...)
}

var likeColumns = edgeColumns("subject",
	column[*edgeRow]{name: `"subjectCid"`, of: func(e *edgeRow) *string { return e.Row.SubjectCID }},
	column[*edgeRow]{name: "via", of: func(e *edgeRow) *string { return e.Row.Via }},
	column[*edgeRow]{name: `"viaCid"`, of: func(e *edgeRow) *string { return e.Row.ViaCID }},
)

const noExtras = "NULL, NULL, NULL, '', NULL, NULL"

var edgeTables = map[derive.Kind]edgeTable{
	derive.Like: {
		name: `"like"`, first: "creator", second: "subject", subject: "subject",
		read: `t."subjectCid", t.via, t."viaCid", '', NULL, NULL`, columns: likeColumns,
	},
	derive.Repost: {
		name: "repost", first: "creator", second: "subject", subject: "subject",
		read: `t."subjectCid", t.via, t."viaCid", '', NULL, NULL`, columns: likeColumns,
	},
	derive.Follow: {
		name: "follow", first: "creator", second: `"subjectDid"`, subject: `"subjectDid"`,
		read: noExtras, columns: edgeColumns(`"subjectDid"`),
	},
	derive.Block: {
		name: "actor_block", first: "creator", second: `"subjectDid"`, subject: `"subjectDid"`,
		read: noExtras, columns: edgeColumns(`"subjectDid"`),
	},
	derive.ListItem: {
		name: "list_item", first: `"listUri"`, second: `"subjectDid"`, subject: `"subjectDid"`,
		read: `NULL, NULL, NULL, t."listUri", NULL, NULL`,
		columns: edgeColumns(`"subjectDid"`,
			column[*edgeRow]{name: `"listUri"`, of: func(e *edgeRow) *string { return &e.Row.List }}),
	},
	derive.ListBlock: {
		name: "list_block", first: "creator", second: `"subjectUri"`, subject: `"subjectUri"`,
		read: noExtras, columns: edgeColumns(`"subjectUri"`),
	},
	derive.ThreadGate: {
		name: "thread_gate", first: "creator", second: `"postUri"`, subject: `"postUri"`,
		read: noExtras, columns: edgeColumns(`"postUri"`),
	},
	derive.PostGate: {
		name: "post_gate", first: "creator", second: `"postUri"`, subject: `"postUri"`,
		read: noExtras, columns: edgeColumns(`"postUri"`),
	},
	derive.Verification: {
		name: "verification", first: "creator", second: "subject", subject: "subject",
		read: `NULL, NULL, NULL, '', t.handle, t."displayName"`,
		columns: edgeColumns("subject",
			column[*edgeRow]{name: "rkey", of: func(e *edgeRow) *string { return new(derive.ParseURI(e.URI).RKey) }},
			column[*edgeRow]{name: "handle", of: func(e *edgeRow) *string { return e.Row.Handle }},
			column[*edgeRow]{name: `"displayName"`, of: func(e *edgeRow) *string { return e.Row.DisplayName }}),
	},
}

// rowTable describes the table of a kind without a key besides the uri.
type rowTable struct {
	name    string
	columns []column[*derive.Record]
}

type recordColumn = column[*derive.Record]

var rowCommon = []recordColumn{
	{name: "uri", of: func(r *derive.Record) *string { return &r.URI }},
	{name: "cid", of: func(r *derive.Record) *string { return &r.CID }},
	{name: "creator", of: func(r *derive.Record) *string { return &r.DID }},
	{name: `"createdAt"`, of: func(r *derive.Record) *string { return &r.CreatedAt }},
	{name: `"indexedAt"`, of: func(r *derive.Record) *string { return &r.IndexedAt }},
}

func rowColumns(more ...recordColumn) []recordColumn {
	return append(append([]recordColumn{}, rowCommon...), more...)
}

var rowTables = map[derive.Kind]rowTable{
	derive.Profile: {name: "profile", columns: rowColumns(
		recordColumn{name: `"displayName"`, of: func(r *derive.Record) *string { return r.Profile.DisplayName }},
		recordColumn{name: "description", of: func(r *derive.Record) *string { return r.Profile.Description }},
		recordColumn{name: `"avatarCid"`, of: func(r *derive.Record) *string { return r.Profile.AvatarCID }},
		recordColumn{name: `"bannerCid"`, of: func(r *derive.Record) *string { return r.Profile.BannerCID }},
		recordColumn{name: `"joinedViaStarterPackUri"`, of: func(r *derive.Record) *string { return r.Profile.JoinedViaStarterPack }},
	)},
	derive.List: {name: "list", columns: rowColumns(
		recordColumn{name: "name", of: func(r *derive.Record) *string { return &r.List.Name }},
		recordColumn{name: "purpose", of: func(r *derive.Record) *string { return &r.List.Purpose }},
		recordColumn{name: "description", of: func(r *derive.Record) *string { return r.List.Description }},
		recordColumn{name: `"descriptionFacets"`, of: func(r *derive.Record) *string { return r.List.DescriptionFacets }},
		recordColumn{name: `"avatarCid"`, of: func(r *derive.Record) *string { return r.List.AvatarCID }},
	)},
	derive.FeedGenerator: {name: "feed_generator", columns: rowColumns(
		recordColumn{name: `"feedDid"`, of: func(r *derive.Record) *string { return &r.FeedGenerator.FeedDID }},
		recordColumn{name: `"displayName"`, of: func(r *derive.Record) *string { return &r.FeedGenerator.DisplayName }},
		recordColumn{name: "description", of: func(r *derive.Record) *string { return r.FeedGenerator.Description }},
		recordColumn{name: `"descriptionFacets"`, of: func(r *derive.Record) *string { return r.FeedGenerator.DescriptionFacets }},
		recordColumn{name: `"avatarCid"`, of: func(r *derive.Record) *string { return r.FeedGenerator.AvatarCID }},
	)},
	derive.StarterPack: {name: "starter_pack", columns: rowColumns(
		recordColumn{name: "name", of: func(r *derive.Record) *string { return &r.StarterPack.Name }},
	)},
	derive.Labeler: {name: "labeler", columns: rowColumns()},
}

// inTable says whether a record has a row in the table of its kind.
func inTable(r *derive.Record) bool {
	switch r.Kind {
	case derive.Profile:
		return r.Profile != nil
	case derive.Labeler:
		return r.Labeler
	default:
		return rowTables[r.Kind].name != ""
	}
}
