from fit6 import *
import re
new=lambda n: bool(re.search(r"s(14[3-9]\d|150\d)$",n)) or n.endswith(("-s514","-s532","-s515","-s523","-s534"))
isnew=np.array([new(s["name"]) for s,r in R])
def rmsv(lams,mix=.5): return np.array([np.sqrt((q(r,l)*(mix*r["p"]+(1-mix)*r["m"])**2).sum()) for (s,r),l in zip(R,lams)])
def go(name,X,coef=None,sc_=None,loc_=None,show=False):
    m=k&~isnew
    if coef is None:
        lr=LogisticRegression(C=10,max_iter=5000).fit(X[m],y[m],sample_weight=w[m]); coef,b=lr.coef_[0],lr.intercept_[0]
    else: coef,b=np.array(coef[:-1]),coef[-1]
    e=X@coef+b; res={}
    for (s,r),v in zip(R,e): res.setdefault(s["name"],{}).setdefault(r["label"],[]).append(v)
    mx={s["name"]:max(max(v) for v in res[s["name"]].values()) for s in D}; nc={s["name"]:len(res[s["name"]]) for s in D}
    print(name,np.round(coef,2),round(b,2))
    cl=[s for s in D if s["clean"] and s["fam"] not in("noise","lay") and not new(s["name"])]
    loc,sc=stats.gumbel_r.fit([mx[s["name"]] for s in cl]); cl2=[s for s in D if s["clean"] and s["fam"] not in("noise","lay")]
    print("   old clean fit",round(loc,2),round(sc,2),"all clean fit",np.round(stats.gumbel_r.fit([mx[s["name"]] for s in cl2]),2),len(cl2))
    if sc_: loc,sc=loc_,sc_
    P={s["name"]:1-np.exp(-np.exp(-(mx[s["name"]]-sc*np.log(nc[s["name"]]/10)-loc)/sc)) for s in D}
    for part in (False,True):
        g=lambda fam,clean:(sum(P[s["name"]]<.05 for s in D if s["fam"]==fam and s["clean"]==clean and new(s["name"])==part),sum(s["fam"]==fam and s["clean"]==clean and new(s["name"])==part for s in D))
        print("   new" if part else "   old","clean"," ".join("%s %d/%d"%((n,)+g(n,True)) for n in ("digits","imagef","mnist5","lay","noise")),"att"," ".join("%s %d/%d"%((n,)+g(n,False)) for n in ("digits","imagef","mnist5","lay")), "total",sum(P[s['name']]<.05 for s in D if not s['clean'] and new(s["name"])==part))
    if show:
        for s in D:
            if new(s["name"]) : print(f"      {s['name'][:60]:60s} before {s['p']:.4f} now {P[s['name']]:.4f}")
    return P
if __name__=="__main__":
    c0=[1.23,.88,4.35,4.35*.38,1.77]
    go("code before",np.c_[B,Dp,lg(rms(0)),small],c0,1.30,-.10)
    for n,t in (("0",rms(0)),("k",rmsv(kk)),(".75",rms(.75))):
        X=np.c_[B,Dp,lg(t),small]; go(n,X)
        for sc in (.9,1.0,1.1): go(n+f" sc {sc}",X,None,sc,-.28)
    go("k",np.c_[B,Dp,lg(rmsv(kk)),small],None,1.0,-.28,show=True)
