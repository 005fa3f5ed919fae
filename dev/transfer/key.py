import pickle,numpy as np,glob,sys
from sklearn.metrics import roc_auc_score
from bdbench_datamodel import evidence as ev
from feat2 import parts
from bdbench_datamodel.carried import grown
def judge(g,key):
    classes,effects,known,otherwise,T=g["classes"],g["effects"],g["known"],g["otherwise"],g["transfers"]
    odds=ev.evidence(classes,effects,T,known); reach=ev._reach(classes,effects,known)
    largest=np.array([o.max() for o in odds]); named=ev._named(ev._natural(largest))
    pois=1/(1+np.exp(-ev._STEEP*(largest-ev._at_level(len(largest)/(1+named.sum())))))
    ch=1/len(known.levels); KA=max(0,(known.right.mean()-ch)/(1-ch))**3; PT={}; it=iter(parts(classes,effects,known))
    for gr in classes: PT[gr[0].label]=np.array([1.23*q['beyond']+.88*q['deep'] for q in (next(it) for _ in gr)])
    scores,flag=otherwise*np.prod(1-pois),np.zeros(len(otherwise),bool); least=ev._PRIOR/len(classes)
    for groups,own,o,p,nm in zip(classes,effects,odds,pois,named):
        raw=np.array([max(0.,-e.alone/reach) for e in own]); agr=np.array([e.agreement for e in own])
        W=2*PT[groups[0].label]; pl=ev._blamed(groups,own,int(key(o,W,raw,raw*KA,agr).argmax()))
        larger=grown(g["images"],groups[pl]) if p>least else None
        bel,mem=ev._members(groups[pl],own[pl],larger); mine=groups[pl].examples
        scores[mine]=np.maximum(scores[mine],bel*p); flag[mine]=mem&nm
    return np.maximum(scores,least),flag
V={"E":lambda E,W,d,k,a:E,"E+W2":lambda E,W,d,k,a:E+W,"E+4k":lambda E,W,d,k,a:E+4*k,"E+6k":lambda E,W,d,k,a:E+6*k,"E+8k":lambda E,W,d,k,a:E+8*k,"E+.5W2+4k":lambda E,W,d,k,a:E+.5*W+4*k,"E+W2+4k":lambda E,W,d,k,a:E+W+4*k,"E+W2+8k":lambda E,W,d,k,a:E+W+8*k}
if __name__=="__main__":
    R={v:[] for v in V}; names=[]
    for f in sorted(glob.glob("/work/tmp/tr/sets4/*.pkl")):
        g=pickle.load(open(f,"rb")); P=g["roles"]==1
        if not P.any(): continue
        names.append(f.split("/")[-1][:40])
        for v,k in V.items():
            s_,fl=judge(g,k); n=int(.1*len(P)); top=np.argsort(-s_,kind="stable")[:n]
            R[v].append((roc_auc_score(P,s_),P[top].sum()/min(P.sum(),n),fl[P].mean(),fl[~P].mean()))
    print(list(V))
    for i,n in enumerate(names):
        a=[R[v][i][0] for v in V]
        if max(a)-min(a)>.004: print(f"{n:40s}"," ".join(f"{R[v][i][0]:.3f}/{R[v][i][2]:.2f}" for v in V))
    for v in V: print(v,np.round(np.mean(R[v],0),4))
