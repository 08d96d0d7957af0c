package atproto

import (
	"bytes"
	"slices"
	"sort"

	"sluice/pkg/event"
)

// tree is a search tree of which only some nodes are at hand, changed in
// memory. It takes back the operations of a commit to show which tree they
// started from.
type tree struct {
	blocks blocks
	root   link
	// layer of the root.
	layer int
}

// link is a subtree: none (zero), known by its CID, or at hand. A node that
// was changed has no CID until the tree is hashed.
type link struct {
	node *branch
	cid  CID
}

func (l *link) none() bool { return l.node == nil && l.cid.IsZero() }

// branch is a node at hand: kids[i] stands before keys[i], the last kid after
// the last key.
type branch struct {
	keys []leaf
	kids []link
}

type leaf struct {
	key   []byte
	value CID
}

func (b *branch) empty() bool { return len(b.keys) == 0 && b.kids[0].none() }

// find returns where key stands, or the kid in which it would.
func (b *branch) find(key []byte) (int, bool) {
	i := sort.Search(len(b.keys), func(i int) bool { return bytes.Compare(b.keys[i].key, key) >= 0 })
	return i, i < len(b.keys) && bytes.Equal(b.keys[i].key, key)
}

// openTree reads the root.
func openTree(root CID, bs blocks) (*tree, error) {
	t := &tree{blocks: bs, root: link{cid: root}}
	raw, ok := bs[root]
	if !ok {
		return nil, event.Dropf(event.ReasonMissingBlock, "root %s of the tree", root)
	}
	n, err := parseNode(raw)
	if err != nil {
		return nil, err
	}
	if t.layer, err = n.rootLayer(); err != nil {
		return nil, err
	}
	return t, t.fill(&t.root, n, t.layer)
}

// load makes a subtree that is known by its CID one at hand.
func (t *tree) load(l *link, layer int) (*branch, error) {
	if l.node != nil {
		return l.node, nil
	}
	if layer < 0 {
		return nil, badTree("subtree below the lowest layer")
	}
	raw, ok := t.blocks[l.cid]
	if !ok {
		return nil, event.Dropf(event.ReasonMissingBlock, "node %s of the tree", l.cid)
	}
	n, err := parseNode(raw)
	if err != nil {
		return nil, err
	}
	if len(n.entries) == 0 && n.left.IsZero() {
		return nil, badTree("empty subtree")
	}
	return l.node, t.fill(l, n, layer)
}

func (t *tree) fill(l *link, n *treeNode, layer int) error {
	if err := n.layered(layer); err != nil {
		return err
	}
	b := &branch{keys: make([]leaf, len(n.entries)), kids: make([]link, len(n.entries)+1)}
	b.kids[0].cid = n.left
	for i := range n.entries {
		e := &n.entries[i]
		b.keys[i] = leaf{key: e.key, value: e.value}
		b.kids[i+1].cid = e.right
	}
	l.node = b
	return nil
}

// get returns the value of key, zero if it is not in the tree.
func (t *tree) get(key []byte) (CID, error) {
	l, layer, want := &t.root, t.layer, layerOf(key)
	for !l.none() && layer >= want {
		b, err := t.load(l, layer)
		if err != nil {
			return CID{}, err
		}
		i, found := b.find(key)
		if found {
			return b.keys[i].value, nil
		}
		l, layer = &b.kids[i], layer-1
	}
	return CID{}, nil
}

// set replaces the value of a key that is in the tree.
func (t *tree) set(key []byte, value CID) error {
	l, layer := &t.root, t.layer
	for !l.none() {
		b, err := t.load(l, layer)
		if err != nil {
			return err
		}
		l.cid = CID{}
		i, found := b.find(key)
		if found {
			b.keys[i].value = value
			return nil
		}
		l, layer = &b.kids[i], layer-1
	}
	return badTree("key is not in the tree")
}

// remove takes out a key that is in the tree.
func (t *tree) remove(key []byte) error {
	if err := t.removeAt(&t.root, t.layer, key); err != nil {
		return err
	}
	return t.trim()
}

func (t *tree) removeAt(l *link, layer int, key []byte) error {
	if l.none() {
		return badTree("key is not in the tree")
	}
	b, err := t.load(l, layer)
	if err != nil {
		return err
	}
	l.cid = CID{}
	i, found := b.find(key)
	if !found {
		if err := t.removeAt(&b.kids[i], layer-1, key); err != nil {
			return err
		}
		if kid := b.kids[i].node; kid != nil && kid.empty() {
			b.kids[i] = link{}
		}
		return nil
	}
	joined, err := t.join(b.kids[i], b.kids[i+1], layer-1)
	if err != nil {
		return err
	}
	b.keys = slices.Delete(b.keys, i, i+1)
	b.kids = slices.Delete(b.kids, i, i+1)
	b.kids[i] = joined
	return nil
}

// join makes one subtree of two that have nothing between them.
func (t *tree) join(left, right link, layer int) (link, error) {
	if left.none() {
		return right, nil
	}
	if right.none() {
		return left, nil
	}
	a, err := t.load(&left, layer)
	if err != nil {
		return link{}, err
	}
	b, err := t.load(&right, layer)
	if err != nil {
		return link{}, err
	}
	last := len(a.kids) - 1
	mid, err := t.join(a.kids[last], b.kids[0], layer-1)
	if err != nil {
		return link{}, err
	}
	return link{node: &branch{
		keys: slices.Concat(a.keys, b.keys),
		kids: slices.Concat(a.kids[:last], []link{mid}, b.kids[1:]),
	}}, nil
}

// trim takes off a root that has no keys. Below a subtree that is not at hand
// nothing changed, so that it is a root as it stands.
func (t *tree) trim() error {
	for {
		b := t.root.node
		if b == nil || len(b.keys) > 0 || b.kids[0].none() {
			return nil
		}
		t.root, t.layer = b.kids[0], t.layer-1
		if t.root.node != nil {
			continue
		}
		if _, ok := t.blocks[t.root.cid]; !ok {
			return nil
		}
		if _, err := t.load(&t.root, t.layer); err != nil {
			return err
		}
	}
}

// insert puts in a key that is not in the tree.
func (t *tree) insert(key []byte, value CID) error {
	layer := layerOf(key)
	root, err := t.load(&t.root, t.layer)
	if err != nil {
		return err
	}
	if root.empty() {
		t.layer = layer
		t.root = link{node: &branch{keys: []leaf{{key, value}}, kids: make([]link, 2)}}
		return nil
	}
	if layer <= t.layer {
		return t.insertAt(&t.root, t.layer, layer, leaf{key, value})
	}
	left, right, err := t.split(t.root, t.layer, key)
	if err != nil {
		return err
	}
	t.root = link{node: &branch{
		keys: []leaf{{key, value}},
		kids: []link{lift(left, layer-1-t.layer), lift(right, layer-1-t.layer)},
	}}
	t.layer = layer
	return nil
}

// lift puts n nodes without keys above a subtree.
func lift(l link, n int) link {
	for range n {
		if l.none() {
			return l
		}
		l = link{node: &branch{kids: []link{l}}}
	}
	return l
}

func (t *tree) insertAt(l *link, layer, want int, x leaf) error {
	if l.none() {
		l.node = &branch{kids: make([]link, 1)}
	}
	b, err := t.load(l, layer)
	if err != nil {
		return err
	}
	l.cid = CID{}
	i, found := b.find(x.key)
	if found {
		return badTree("key is in the tree already")
	}
	if layer > want {
		return t.insertAt(&b.kids[i], layer-1, want, x)
	}
	left, right, err := t.split(b.kids[i], layer-1, x.key)
	if err != nil {
		return err
	}
	b.keys = slices.Insert(b.keys, i, x)
	b.kids[i] = left
	b.kids = slices.Insert(b.kids, i+1, right)
	return nil
}

// split parts a subtree into what is before and what is after a key.
func (t *tree) split(l link, layer int, key []byte) (left, right link, err error) {
	if l.none() {
		return link{}, link{}, nil
	}
	b, err := t.load(&l, layer)
	if err != nil {
		return link{}, link{}, err
	}
	i, found := b.find(key)
	if found {
		return link{}, link{}, badTree("key is in the tree already")
	}
	if i == 0 && b.kids[0].none() {
		return link{}, l, nil
	}
	if i == len(b.keys) && b.kids[i].none() {
		return l, link{}, nil
	}
	before, after, err := t.split(b.kids[i], layer-1, key)
	if err != nil {
		return link{}, link{}, err
	}
	a := &branch{keys: slices.Clone(b.keys[:i]), kids: append(slices.Clone(b.kids[:i]), before)}
	z := &branch{keys: slices.Clone(b.keys[i:]), kids: append([]link{after}, b.kids[i+1:]...)}
	if !a.empty() {
		left.node = a
	}
	if !z.empty() {
		right.node = z
	}
	return left, right, nil
}

// hash returns the root as it stands now.
func (t *tree) hash() CID { return hashLink(&t.root) }

func hashLink(l *link) CID {
	if !l.cid.IsZero() || l.node == nil {
		return l.cid
	}
	b := l.node
	n := treeNode{left: hashLink(&b.kids[0]), entries: make([]treeEntry, len(b.keys))}
	for i, k := range b.keys {
		n.entries[i] = treeEntry{key: k.key, value: k.value, right: hashLink(&b.kids[i+1])}
	}
	var buf [2048]byte
	l.cid = SumCID(appendNode(buf[:0], &n))
	return l.cid
}

// check shows that the tree has what the operations say they left. Senders of
// before prevData do not send what shows that a deleted key is gone, so lenient
// takes their word for it.
func (t *tree) check(ops []Op, lenient bool) error {
	for i := range ops {
		op := &ops[i]
		got, err := t.get([]byte(op.Path))
		if err != nil {
			if lenient && op.Action == ActionDelete && ReasonOf(err) == event.ReasonMissingBlock {
				continue
			}
			return err
		}
		if got != op.CID {
			return event.Dropf(event.ReasonBadCID, "%s %s: the tree has %q", op.Action, op.Path, got.String())
		}
	}
	return nil
}

// invert takes the operations back, deletions first and then by path, as the
// senders of proofs do it to find out which nodes a receiver needs.
func (t *tree) invert(ops []Op) error {
	order := make([]*Op, len(ops))
	for i := range ops {
		order[i] = &ops[i]
	}
	slices.SortFunc(order, func(a, b *Op) int {
		if x, y := a.Action == ActionDelete, b.Action == ActionDelete; x != y {
			if x {
				return -1
			}
			return 1
		}
		return bytes.Compare([]byte(a.Path), []byte(b.Path))
	})
	for i, op := range order {
		if i > 0 && order[i-1].Path == op.Path || op.Action != ActionCreate && op.Prev.IsZero() {
			return event.Dropf(event.ReasonBadProof, "%s %s: twice, or without prev", op.Action, op.Path)
		}
		if err := t.takeBack(op); err != nil {
			return err
		}
	}
	return nil
}

func (t *tree) takeBack(op *Op) error {
	key := []byte(op.Path)
	switch op.Action {
	case ActionCreate:
		return t.remove(key)
	case ActionUpdate:
		return t.set(key, op.Prev)
	default:
		return t.insert(key, op.Prev)
	}
}
