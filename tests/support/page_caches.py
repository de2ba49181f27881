"""Plain simulators of page caches for tests: demand fill, one page at a time, written from the papers and not from the program."""
from collections import OrderedDict, deque


def fifo(accesses, capacity):
    queue, hits = deque(), 0
    for page in accesses:
        if page in queue:
            hits += 1
            continue
        if len(queue) == capacity:
            queue.popleft()
        queue.append(page)
    return hits


def lru(accesses, capacity):
    order, hits = OrderedDict(), 0
    for page in accesses:
        if page in order:
            hits += 1
            order.move_to_end(page)
            continue
        if len(order) == capacity:
            order.popitem(last=False)
        order[page] = True
    return hits


def lfu(accesses, capacity):
    """Among equals the page stored first goes; counts start again when a page comes back."""
    count, hits = OrderedDict(), 0
    for page in accesses:
        if page in count:
            hits += 1
            count[page] += 1
            continue
        if len(count) == capacity:
            del count[min(count, key=count.get)]
        count[page] = 1
    return hits


def clock(accesses, capacity):
    queue, marked, hits = deque(), set(), 0
    for page in accesses:
        if page in queue:
            hits += 1
            marked.add(page)
            continue
        if len(queue) == capacity:
            while queue[0] in marked:
                marked.discard(queue[0])
                queue.rotate(-1)
            queue.popleft()
        queue.append(page)
    return hits


def sieve(accesses, capacity):
    """`pages` from oldest to newest; the hand walks towards the newest and then starts again."""
    pages, marked, hand, hits = [], set(), 0, 0
    for page in accesses:
        if page in pages:
            hits += 1
            marked.add(page)
            continue
        if len(pages) == capacity:
            while pages[hand] in marked:
                marked.discard(pages[hand])
                hand = (hand + 1) % len(pages)
            del pages[hand]
            hand = 0 if hand == len(pages) else hand  # behind the newest there is nothing yet
        pages.append(page)
    return hits


def s3fifo(accesses, capacity, libcachesim=False):
    """`libcachesim`: units go to main while nothing was evicted and small is full, and small is searched until one goes."""
    small, main, ghost, freq, hits, evicted = deque(), deque(), deque(), {}, 0, False
    small_size, ghost_size = max(1, int(capacity * 0.1)), max(1, int(capacity * 0.9))
    for page in accesses:
        if page in freq:
            hits += 1
            freq[page] = min(3, freq[page] + 1)
            continue
        returns = page in ghost
        if returns:
            ghost.remove(page)
        if len(freq) == capacity:
            _s3fifo_evict(small, main, ghost, freq, (small_size, ghost_size), libcachesim)
            evicted = True
        freq[page] = 0
        (main if returns or (libcachesim and not evicted and len(small) >= small_size) else small).append(page)
    return hits


def _s3fifo_evict(small, main, ghost, freq, sizes, drain):
    small_size, ghost_size = sizes
    from_small = len(small) >= small_size or not main
    while small and (from_small if drain else len(small) >= small_size or not main):
        page = small.popleft()
        if freq[page] < 2:
            del freq[page]
            ghost.append(page)
            if len(ghost) > ghost_size:
                ghost.popleft()
            return
        freq[page] = 0
        main.append(page)
    while True:
        page = main.popleft()
        if freq[page] == 0:
            del freq[page]
            return
        freq[page] -= 1
        main.append(page)


def two_queue(accesses, capacity):
    k_in, k_out = max(1, int(capacity * 0.25)), max(1, int(capacity * 0.5))
    a1in, am, a1out, hits = deque(), OrderedDict(), deque(), 0
    for page in accesses:
        if page in am:
            hits += 1
            am.move_to_end(page)
            continue
        if page in a1in:
            hits += 1
            continue
        returns = page in a1out
        if returns:
            a1out.remove(page)
        if len(a1in) + len(am) == capacity:
            if len(a1in) > k_in or not am:
                a1out.append(a1in.popleft())
                if len(a1out) > k_out:
                    a1out.popleft()
            else:
                am.popitem(last=False)
        if returns:
            am[page] = True
        else:
            a1in.append(page)
    return hits


def arc(accesses, capacity):
    """Megiddo and Modha's pseudocode, with p as a real number."""
    t1, t2, b1, b2 = OrderedDict(), OrderedDict(), OrderedDict(), OrderedDict()
    p, hits = 0.0, 0

    def replace(in_b2):
        if t1 and (len(t1) > p or (in_b2 and len(t1) == p)):
            b1[t1.popitem(last=False)[0]] = True
        else:
            b2[t2.popitem(last=False)[0]] = True

    for page in accesses:
        if page in t1 or page in t2:
            hits += 1
            (t1 if page in t1 else t2).pop(page)
            t2[page] = True
        elif page in b1:
            p = min(float(capacity), p + max(1.0, len(b2) / len(b1)))
            replace(False)
            del b1[page]
            t2[page] = True
        elif page in b2:
            p = max(0.0, p - max(1.0, len(b1) / len(b2)))
            replace(True)
            del b2[page]
            t2[page] = True
        else:
            if len(t1) + len(b1) == capacity:
                if len(t1) < capacity:
                    b1.popitem(last=False)
                    replace(False)
                else:
                    t1.popitem(last=False)
            elif len(t1) + len(t2) + len(b1) + len(b2) >= capacity:
                if len(t1) + len(t2) + len(b1) + len(b2) == 2 * capacity:
                    b2.popitem(last=False)
                if len(t1) + len(t2) >= capacity:
                    replace(False)
            t1[page] = True
    return hits


def belady(accesses, next_access, bypass, capacity):
    """`next_access[t]`: number of the page's next access, infinity where there is none."""
    following, hits = {}, 0
    for page, later in zip(accesses, next_access):
        if page in following:
            hits += 1
        elif len(following) == capacity:
            victim = max(following, key=following.get)
            if bypass and later >= following[victim]:
                continue
            del following[victim]
        following[page] = later
    return hits


ONLINE = {"fifo": fifo, "lru": lru, "lfu": lfu, "clock": clock, "sieve": sieve, "s3fifo": s3fifo, "2q": two_queue, "arc": arc}
