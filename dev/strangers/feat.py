"""Features of each group from a pickled set: turned shares per source class of x + c d and x - c d."""
import sys, pickle, numpy as np, glob, time
from pathlib import Path
from bdbench import experiment
from bdbench.networks.training import Victim
import torch
def victim_of(g):
    shape = g["images"].shape[1:]
    arch = experiment.installed().component("model", "convnet")
    net = arch.build(tuple(shape), g["K"])
    net.load_state_dict({k[6:]: torch.from_numpy(np.asarray(v)) for k, v in g["victim"].items() if k.startswith("state.")})
    net.eval()
    return Victim(net, g["victim"]["mean"], g["victim"]["std"], "cpu")
def shown(x, d): return np.clip(np.rint(x + d), 0, 255).astype(np.uint8)
def feats(g, per=40, seed=0):
    rng = np.random.default_rng(seed)
    v = victim_of(g)
    X, y, K = g["images"], g["labels"], g["K"]
    Xf = lambda i: X[i].astype(np.float32)
    poison = g["roles"] == 2 if False else None
    chosen = {c: rng.permutation(np.flatnonzero(y == c))[:per] for c in np.unique(y)}
    base = {c: v.predict(X[i]) for c, i in chosen.items()}
    out = []
    for groups, eff, ev in zip(g["classes"], g["effects"], g["odds"]):
        for place, (s, e) in enumerate(zip(groups, eff)):
            ex, m = s.examples, s.members
            d = Xf(ex[m]).mean(0) - Xf(ex[~m]).mean(0)
            others = [c for c in chosen if c != s.label]
            idx = np.concatenate([chosen[c] for c in others]); src = np.repeat(others, [len(chosen[c]) for c in others])
            b = np.concatenate([base[c] for c in others])
            row = dict(label=s.label, kind=s.kind, n=int(m.sum()), size=len(ex), sharp=s.sharpness, strength=e.strength, alone=e.alone, agree=e.agreement, ev=float(ev[place]), src=others, members=s.group)
            row["base"] = np.array([(b[src == c] == s.label).mean() for c in others])
            for c in (1, 1.5, 2):
                for name, sign in (("p", 1), ("m", -1)):
                    pr = v.predict(shown(Xf(idx), sign * c * d))
                    row[f"{name}{c:g}"] = np.array([(pr[src == k] == s.label).mean() for k in others])
            out.append(row)
    return out
def main(pattern):
    for f in sorted(glob.glob(f"/work/tmp/tr/sets/{pattern}.pkl")):
        o = Path(f.replace("/sets/", "/feats/"))
        if o.exists(): continue
        g = pickle.load(open(f, "rb"))
        from bdbench_datamodel import evidence
        g["odds"] = evidence.evidence(g["classes"], g["effects"], g["known"])
        t = time.time()
        rows = feats(g)
        if g["roles"].max() > 0:
            pass
        roles = g["roles"]
        for r in rows:
            r["poisons"] = int((roles[r["members"]] == 1).sum()); r["class_poisons"] = int(((roles == 1) & (g["labels"] == r["label"])).sum())
        pickle.dump(dict(rows=rows, attack=g["attack"], seed=g["seed"], dataset=g["dataset"], K=g["K"], p=g["judged"].p_value, targets=g["targets"]), open(o, "wb"))
        print(Path(f).name, f"{time.time()-t:.1f}s", flush=True)
if __name__ == "__main__":
    Path("/work/tmp/tr/feats").mkdir(exist_ok=True)
    main(sys.argv[1] if len(sys.argv) > 1 else "*")
